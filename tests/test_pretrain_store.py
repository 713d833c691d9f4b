"""A run on a packed set: the same run as on the folder where the pixels are, and never mistaken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import pack, resident
from tests.runs import QUIET, losses

Main = Callable[[list[str]], int]
FLAGS = ["--epochs", "1", "--batch-size", "8", "--width", "16", "--log-every", "1", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns a folder of tiny images and two stores of it."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 2)):
        for number in range(count):
            path = root / "folder" / split / f"c{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    for name, flags in (("raw", ["--raw"]), ("jpeg", [])):
        assert pack.main([str(root / "folder"), str(root / name), "--workers", "1", *flags]) == 0
    return {name: root / name for name in ("folder", "raw", "jpeg")}


def test_a_raw_store_gives_the_run_that_the_folder_gives(
    main: Main,
    places: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(data: str, out: str, *more: str) -> int:
        return main(["small_cifar10", "--data", str(places[data]), "--out", str(tmp_path / out), *FLAGS, *QUIET, *more])

    assert train("folder", "folder") == 0
    assert train("raw", "raw", "--stage", str(tmp_path / "node")) == 0
    assert losses(tmp_path / "raw") == losses(tmp_path / "folder")
    assert len(losses(tmp_path / "raw")) == 4
    assert list((tmp_path / "node").rglob("*.tar"))
    assert "images from store id" in capfd.readouterr().out
    held = json.loads((places["raw"] / "store.json").read_text())
    record = json.loads((tmp_path / "raw" / "environment.json").read_text())["attempts"][0]
    assert (record["store"]["id"], record["store"]["kind"]) == (held["id"], "raw")
    assert record["place"]["stage"] == str(tmp_path / "node")
    assert "store" not in json.loads((tmp_path / "folder" / "recipe.json").read_text())["described"]

    assert train("raw", "held", "--resident") == 0
    assert "batches from 32 images of 32 x 32, 0 MB, held on cpu" in capfd.readouterr().out
    assert losses(tmp_path / "held")[1] == pytest.approx(
        losses(tmp_path / "raw")[1], rel=0.01
    )  # rounding, not yet grown
    assert train("raw", "held") == 2
    assert "Take another folder, or --resident\n" in capfd.readouterr().err
    assert train("raw", "raw", "--resident") == 2
    assert "or --views fast without --resident\n" in capfd.readouterr().err
    assert train("raw", "held", "--resident") == 0
    with monkeypatch.context() as full:  # a refusal leaves the folder free for the same command without the flag
        full.setattr(resident, "free_bytes", lambda device: 1000)
        assert train("raw", "refused", "--resident") == 2
    assert "cpu has 0.00 GB free" in capfd.readouterr().err
    assert train("raw", "refused") == 0
    assert train("raw", "new", "--resident", "--views", "reference") == 2
    assert "--views reference makes them by Pillow" in capfd.readouterr().err
    for other in ("folder", "jpeg"):
        assert train(other, "raw") == 2
        assert "holds another run: store" in capfd.readouterr().err
    assert train("raw", "folder") == 2
    assert train("folder", "new", "--stage", str(tmp_path / "node")) == 2
    assert "python -m data.pack SRC DST makes one" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()
    assert train("raw", "raw") == 0


def test_a_check_of_a_command_finds_the_same(
    main: Main, places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["small_cifar10", "--out", str(tmp_path / "run"), *FLAGS, "--stage", "$NOT_SET_HERE"]
    assert main(["--check", "2", *command, "--data", str(places["jpeg"])]) == 0
    assert main(["--check", "2", *command, "--data", str(places["folder"])]) == 2
    assert "--stage copies shards" in capfd.readouterr().err
