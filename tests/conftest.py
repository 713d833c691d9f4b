"""Fixtures for all tests. Real images are found by the variable SSL_DATA, a folder of archives; else tests skip."""

from __future__ import annotations

import importlib
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.runs import QUIET, TINY, run


def pytest_configure() -> None:
    """Heeds Ctrl-C: a shell that starts the tests in the background has them, and all they start, ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and test processes that run side by side lose much."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indexes of shards are kept in a folder of the tests', not in the user's."""
    os.environ["SSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a tiny run that nobody interrupted; for reading only."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, text = run(out, *TINY, *QUIET, "--workers", "1")
    assert code == 0, text
    return out


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], int]]:
    """Returns pretrain.main, called in this process (a fresh one takes seconds to import torch), and its exit code."""
    from training import stop

    monkeypatch.setattr(stop, "block", lambda: None)  # the test process should stay killable
    module = importlib.import_module("pretrain")

    def call(arguments: list[str]) -> int:
        try:
            return module.main(arguments)
        except SystemExit as leaving:  # tyro's way
            return int(leaving.code or 0)

    numbers = (signal.SIGINT, signal.SIGCHLD)  # a run leaves handlers of its own
    before = [signal.getsignal(number) for number in numbers]
    yield call
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function: the name of an archive in SSL_DATA -> the folder it was unpacked to."""

    @cache
    def unpack(name: str) -> Path:
        place = os.environ.get("SSL_DATA")
        if not place:
            pytest.skip(f"SSL_DATA is not set: the folder that holds {name}")
        archive = next(Path(place).glob(f"{name}.tar*"), None)
        if archive is None:
            pytest.skip(f"SSL_DATA={place} holds no {name}.tar")
        folder = tmp_path_factory.mktemp("data")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        return folder / name

    return unpack
