"""One run on several ranks: the losses of one process, also where a run is resumed on another number of them."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.runs import QUIET, STEPS, TINY, events, finish, losses, run, start, wait_for_step
from training import checkpoint

# Float64, since training amplifies float32's rounding some thousand times in ten steps.
FLAGS = [*TINY, *QUIET, "--workers", "0", "--precision", "fp64"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Returns the losses of one process that nobody interrupted."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    code, text = run(out, *FLAGS)
    assert code == 0, text
    found = losses(out)
    assert sorted(found) == list(range(1, STEPS + 1))
    return found


def test_two_ranks_give_the_losses_of_one(alone: dict[int, float], tmp_path: Path) -> None:
    """BatchNorm included."""
    code, text = run(tmp_path / "two", *FLAGS, ranks=2)
    assert code == 0, text
    assert losses(tmp_path / "two") == pytest.approx(alone, rel=1e-9)


def test_compressed_gradients_train_another_run_and_are_on_record(alone: dict[int, float], tmp_path: Path) -> None:
    out = tmp_path / "two"
    code, text = run(out, *FLAGS, "--compress-gradients", ranks=2)
    assert code == 0, text
    found = losses(out)
    assert found == pytest.approx(alone, rel=0.1)
    assert any(abs(found[step] / alone[step] - 1) > 1e-6 for step in alone)  # without it: within 1e-9, as above
    assert json.loads((out / "recipe.json").read_text())["described"]["gradient_exchange"] == "bf16"


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)], ids=["1_then_2", "2_then_1"])
def test_a_run_can_be_resumed_on_another_number_of_ranks(
    alone: dict[int, float], tmp_path: Path, before: int, after: int
) -> None:
    """Parameters, BatchNorm's statistics, the optimiser's moments and the position say nothing of the ranks."""
    out = tmp_path / "moved"
    flags = [*FLAGS, "--save-every", "1000"]  # what is resumed is what the signal left
    process = start(out, *flags, ranks=before)
    wait_for_step(out, 3, process)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    code, text = finish(process)
    assert code != 0, text
    stopped = events(out, "stop")[0]["step"]
    assert 3 <= stopped < STEPS
    code, text = run(out, *flags, ranks=after)
    assert code == 0, text
    assert re.search(rf"resumed at step {stopped}\b", text), text
    assert f"{after} x cpu" in text
    assert losses(out) == pytest.approx(alone, rel=1e-9)


def test_ranks_end_together_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    """No rank is left waiting for one that has ended, and what was saved is finite."""
    out = tmp_path / "out"
    code, text = run(out, *TINY, *QUIET, "--workers", "0", "--lr", "1e30", ranks=2)
    assert code != 0
    assert text.count("exitcode  : 70") == 2, text  # torchrun's account of both
    (stop,) = events(out, "stop")
    assert stop["code"] == 70
    for path in (out / "checkpoints").glob("*.pt"):
        assert checkpoint.all_finite(checkpoint.load(path)) is None
