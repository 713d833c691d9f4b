"""How pretrain.py ends when its input fails: a data worker that is killed, too many images that cannot be read."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.decode import as_tensor
from data.images import BadImage
from data.order import epoch_order
from tests.runs import QUIET, TINY, change_recipes, events, finish, losses, run, start, wait_for_step, weights
from training import checkpoint, stop


def children(pid: int) -> list[int]:
    """Returns the processes that a process's main thread has started, and theirs."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def runs_still(pid: int) -> bool:
    """Returns whether a process is there and more than an entry that its parent has not read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_data_worker_ends_the_run_which_can_be_resumed(undisturbed: Path, tmp_path: Path) -> None:
    """By the kernel, for want of memory, say. Nothing waits for what never comes, and nothing is left running."""
    out = tmp_path / "out"
    flags = [*TINY, *QUIET, "--workers", "2"]
    process = start(out, *flags)
    wait_for_step(out, 3, process)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(workers[0], signal.SIGKILL)
    killed = time.monotonic()
    code, text = finish(process, timeout=60)
    assert time.monotonic() - killed < 30
    assert code not in (0, 75), text
    assert str(workers[0]) in text  # whoever looks for the reason finds which worker it was
    assert not any(runs_still(worker) for worker in workers)
    assert not (out / "done.json").exists()
    assert events(out, "end")[-1]["exit_code"] == code  # wandb is told the same

    code, text = run(out, *flags)
    assert code == 0, text
    assert "resumed at step" in text
    assert losses(out) == losses(undisturbed)
    assert weights(out) == weights(undisturbed)


class HalfUnreadable:
    """Noise; no image at an even position can be read."""

    classes = ("noise",)

    def __init__(self, num_images: int) -> None:
        self.labels = np.zeros(num_images, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        if index % 2 == 0:
            raise BadImage(f"{self.name(index)}: cut short")
        return Image.fromarray(np.random.default_rng(index).integers(0, 255, (32, 32, 3), dtype=np.uint8))

    def pixels(self, index: int) -> torch.Tensor:
        return as_tensor(self.image(index))

    def name(self, index: int) -> str:
        return f"noise/{index}"


def test_a_signal_while_the_encoder_is_evaluated_leaves_the_rest_to_the_next_start(
    tmp_path: Path, main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def heed() -> None:
        raise stop.Stopped("stopped by SIGTERM: run the same command again")

    monkeypatch.setattr(stop, "heed", heed)
    out = tmp_path / "out"
    flags = ["--heatmap-every", "0", "--workers", "0", "--device", "cpu"]
    assert main(["demo", "--out", str(out), *TINY, *flags]) == stop.STOPPED_EXIT
    assert events(out, "stop")[0]["code"] == stop.STOPPED_EXIT
    assert (out / "encoder").is_dir()
    assert not (out / "done.json").exists()
    assert not (out / "evaluation.json").exists()


@dataclass(frozen=True)
class Half:
    """The set as a recipe names it."""

    num_images: int

    def open(self, root: Path | None, split: str) -> HalfUnreadable:
        return HalfUnreadable(self.num_images)


@pytest.mark.parametrize(("num_images", "limit"), [(1_000, 100), (30_000, 300)], ids=["a_hundred", "one_percent"])
def test_more_unreadable_images_than_the_limit_stop_the_run(
    main: Callable[[list[str]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_images: int,
    limit: int,
) -> None:
    """At most a hundred or 1 %, whichever is more, may be replaced. It stops at the very step that passes the limit."""
    order = epoch_order(seed=0, epoch=0, num_samples=num_images)
    unread = np.cumsum(order % 2 == 0)[15::16]  # after each batch of 16; the image beside an unreadable one is whole
    stopped = int(np.argmax(unread > limit))

    change_recipes(monkeypatch, data=Half(num_images))
    flags = ["--batch-size", "16", "--epochs", "1", "--workers", "0", "--device", "cpu", "--skip-bad-images"]
    out = tmp_path / "out"
    assert main(["demo", "--out", str(out), *flags, *QUIET]) == 2
    told = capsys.readouterr().err
    assert f"{unread[stopped]} of {num_images} images cannot be read, such as noise/" in told
    assert "Traceback" not in told
    assert [event["step"] for event in events(out, "stop")] == [stopped]
    assert len(events(out, "bad_image")) == unread[stopped]
    kept = checkpoint.newest(out / "checkpoints").path
    assert kept is not None
    assert checkpoint.load(kept)["step"] == stopped  # what was learned so far is not lost

    assert main(["demo", "--out", str(out), *flags, *QUIET]) == 2  # those of the first start still count
    assert [event["step"] for event in events(out, "stop")] == [stopped, stopped]
