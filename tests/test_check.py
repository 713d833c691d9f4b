"""`pretrain.py --check`: what is wrong with a command, on as many ranks as it will have, without running it."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Returns a function: arguments after --check, stdin -> (exit code, stdout, stderr)."""
    from training import stop

    monkeypatch.setattr(stop, "block", lambda: None)
    module = importlib.import_module("pretrain")

    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        try:
            code = module.main(["--check", *words])
        except SystemExit as leaving:  # tyro's way
            code = int(leaving.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_a_good_command_is_summed_up_and_nothing_is_written(check: Callable, tmp_path: Path) -> None:
    code, said, _ = check("8", "demo", "--out", str(tmp_path / "out"), "--images", "128", "--epochs", "3")
    assert code == 0
    assert f"{tmp_path / 'out'}: 128 images, 6 steps of 64 rows" in said
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_gpu(check: Callable, tmp_path: Path) -> None:
    flags = ("--images", "64", "--device", "cuda", "--precision", "fp16")
    assert check("8", "demo", "--out", str(tmp_path / "out"), *flags)[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("7", "demo", "--out", "OUT"), "does not divide over 7 ranks"),
        (("1", "dem", "--out", "OUT"), "did you mean demo"),
        (("1", "demo", "--out", "OUT", "--epoch", "1"), "--epochs"),
        (("1", "demo", "--out", "OUT/file/run"), "cannot be written"),
        (("1", "demo", "--out", "OUT/other"), "holds other files"),
        (("1", "barlow_twins_rn50", "--out", "OUT/new", "--data", "OUT/nowhere"), "no such folder"),
        (("many", "demo"), "number of ranks"),
        ((), "number of ranks"),
    ],
)
def test_bad_commands_are_refused(check: Callable, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    code, _, found = check(*(word.replace("OUT", str(tmp_path)) for word in words))
    assert code == 2
    assert told in " ".join(found.split())


def test_of_many_commands_each_is_checked(check: Callable, tmp_path: Path) -> None:
    commands = [
        ["demo", "--out", str(tmp_path / str(seed)), "--images", "64", "--seed", str(seed)] for seed in range(3)
    ]
    code, said, _ = check("2", stdin=json.dumps(commands))
    assert code == 0
    assert len(said.splitlines()) == 3
    commands[2][-1] = "-1"
    code, _, told = check("2", stdin=json.dumps(commands))
    assert code == 2
    assert "seed -1 should not be negative" in told


def test_each_network_of_a_sweep_is_built(check: Callable, tmp_path: Path) -> None:
    (tmp_path / "data" / "train" / "cat").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 40)).save(tmp_path / "data" / "train" / "cat" / f"{number}.png")
    flags = ["--data", str(tmp_path / "data"), "--batch-size", "4"]
    commands = [
        ["barlow_twins_rn50", "--out", str(tmp_path / name), *flags, "--backbone", name]
        for name in ("resnet18", "resnet18d", "resnet1")
    ]
    code, said, told = check("1", stdin=json.dumps(commands))
    assert code == 2
    assert len(said.splitlines()) == 2
    assert "resnet1'" in told
    assert "did you mean resnet1" in told
