"""pretrain.py --probe-every: what is learned is the same to the bit, and a resumed run's numbers are, too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diagnostics.record import read_metrics
from tests.runs import QUIET, STEPS, TINY, change_recipes, losses, weights
from training import checkpoint

Main = Callable[[list[str]], int]
FLAGS = [*TINY, *QUIET, "--workers", "0", "--probe-every", "4", "--save-every", "3", "--keep", "9"]


def online(out: Path) -> dict[int, dict[str, float]]:
    """Returns the online numbers by step."""
    found = {
        line["step"]: {key: value for key, value in line.items() if key.startswith("online")}
        for line in read_metrics(out)
    }
    return {step: numbers for step, numbers in found.items() if numbers}


def test_a_watched_run_learns_the_same_and_resumes_to_the_bit(
    main: Main, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from data import Shapes

    change_recipes(monkeypatch, data=Shapes(num_train=80, num_test=40, seed=2))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main(["demo", "--out", str(whole), *FLAGS]) == 0
    assert "k-NN of 80 train and linear probe, on 40 test images" in capsys.readouterr().out
    assert losses(whole) == losses(undisturbed)  # which was not watched
    assert weights(whole) == weights(undisturbed)
    numbers = online(whole)
    assert list(numbers) == [0, 4, 8, STEPS]
    assert all({"online/top1", "online/train_top1"} < numbers[step].keys() for step in (4, 8, STEPS))
    assert all("online/knn-k20-T0.07/top1" in found for found in numbers.values())

    kept = {path.name[:13]: path for path in (whole / "checkpoints").glob("*.pt")}
    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "recipe.json", resumed)
    shutil.copy(kept["step_00000006"], resumed / "checkpoints")
    assert main(["demo", "--out", str(resumed), *FLAGS]) == 0
    assert online(resumed) == {step: numbers[step] for step in (8, STEPS)}
    last = [checkpoint.load(checkpoint.newest(out / "checkpoints").path)["online"] for out in (whole, resumed)]
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in last), strict=True))


@pytest.mark.parametrize(("flags", "told"), [(["-1"], "should not be negative"), (["5", "--data", "PAIRS"], "classes")])
def test_what_cannot_be_watched_is_refused(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / "pairs" / split).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (40, 40)).save(tmp_path / "pairs" / split / f"{number}.png")
            (tmp_path / "pairs" / split / f"{number}.txt").write_text(f"picture {number}")
    recipe = "clip_emoji" if "PAIRS" in flags else "demo"
    flags = [str(tmp_path / "pairs") if flag == "PAIRS" else flag for flag in flags]
    assert main([recipe, "--out", str(tmp_path / "out"), "--batch-size", "8", "--probe-every", *flags]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
