"""A run can be resumed from every step: the middle of an epoch is as good as its end."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from pathlib import Path

import pytest

from tests.runs import QUIET, STEPS, TINY, losses, weights

FLAGS = [*TINY, *QUIET, "--workers", "0", "--save-every", "1", "--keep", str(STEPS)]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    """Returns pretrain.main, run in this process: a fresh one takes seconds to import torch."""
    from training import stop

    monkeypatch.setattr(stop, "block", lambda: None)  # the test process should stay killable
    monkeypatch.setattr(stop, "watch_interrupt", lambda: None)
    return importlib.import_module("pretrain").main


def test_from_every_step_of_an_epoch_the_weights_come_out_the_same(main, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert main(["demo", "--out", str(whole), *FLAGS]) == 0
    checkpoints = sorted((whole / "checkpoints").glob("*.pt"))
    assert len(checkpoints) == STEPS
    for step, checkpoint in enumerate(checkpoints[:-1], start=1):
        resumed = tmp_path / f"from_{step}"
        (resumed / "checkpoints").mkdir(parents=True)
        shutil.copy(whole / "recipe.json", resumed)
        shutil.copy(checkpoint, resumed / "checkpoints")
        assert main(["demo", "--out", str(resumed), *FLAGS]) == 0
        assert losses(resumed) == {key: loss for key, loss in losses(whole).items() if key > step}
        assert weights(resumed) == weights(whole)
        with contextlib.suppress(OSError):
            shutil.rmtree(resumed)


def test_an_output_folder_that_vanishes_is_said_and_costs_no_crash(main, tmp_path: Path, monkeypatch, capsys) -> None:
    """Somebody removes the folder of a run on its way: each save fails aloud, and the end says what is missing."""
    from training import checkpoint

    out, real = tmp_path / "out", checkpoint.save

    def save(folder: Path, step: int, state: dict, keep: int) -> Path:
        if step == 4:
            shutil.rmtree(out)
            out.write_text("somebody's file")  # not even a new folder can be made
        return real(folder, step, state, keep)

    monkeypatch.setattr(checkpoint, "save", save)
    assert main(["demo", "--out", str(out), *TINY, *QUIET, "--workers", "0"]) == 74
    told = capsys.readouterr().err
    assert told.count("could not be saved") >= 3
    assert "the last checkpoint could not be written" in told
