import io
import re
import subprocess
import sys

import pytest

from diagnostics.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(progress: Progress, clock: Clock, steps: range, seconds: float, **values: float) -> None:
    for step in steps:
        clock.now += seconds
        progress.update(step, **values)


def test_plain_lines_come_first_last_and_every_interval() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, 0, 64, steps_per_epoch=10, interval=30.0, stream=stream, clock=clock)
    run(progress, clock, range(1, 101), seconds=7.0)
    progress.close()
    steps = [int(step) for step in re.findall(r"step (\d+)/100", stream.getvalue())]
    assert steps == [1, *range(6, 100, 5), 100]  # 5 steps of 7 s are the first to pass 30 s
    assert "\r" not in stream.getvalue()


def test_a_line_has_rates_of_its_window_and_the_newest_loss() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, 0, 64, steps_per_epoch=300, interval=30.0, stream=stream, clock=clock)
    run(progress, clock, range(1, 2), seconds=500.0)  # the first step compiles: in no later rate
    run(progress, clock, range(2, 12), seconds=2.0, loss=9.0, lr=0.1, data_wait=0.5)
    run(progress, clock, range(12, 17), seconds=2.0, loss=3.25, lr=0.0125, data_wait=1.5)
    line = stream.getvalue().splitlines()[-1]
    assert line.startswith("epoch 1/4, step 16/1000, loss 3.25, lr 0.0125, 32 images/s, data wait 42%, ")
    assert f"ETA {duration(984 * 2)}, " in line
    assert re.search(r"RSS \d+\.\d GiB$", line)
    run(progress, clock, range(17, 32), seconds=2.0, data_wait=0.2)
    assert "step 31/1000, loss 3.25, lr 0.0125, 32 images/s, data wait 10%, " in stream.getvalue().splitlines()[-1]


def test_loss_and_lr_stay_until_told_anew_and_are_left_out_before() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(3, 0, 1, steps_per_epoch=3, interval=0.0, stream=stream, clock=clock)
    run(progress, clock, range(1, 2), seconds=1.0)
    run(progress, clock, range(2, 3), seconds=1.0, loss=2.0, lr=0.5)
    run(progress, clock, range(3, 4), seconds=1.0)
    first, second, third = stream.getvalue().splitlines()
    assert "loss" not in first
    assert "lr" not in first
    assert "loss 2, lr 0.5" in second
    assert "loss 2, lr 0.5" in third


def test_a_resumed_run_counts_only_its_own_steps() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, 900, 10, steps_per_epoch=100, interval=30.0, stream=stream, clock=clock)
    run(progress, clock, range(901, 1001), seconds=1.0)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("epoch 10/10, step 901/1000, 10 images/s")
    assert "ETA ?" in lines[0]
    assert "10 images/s" in lines[1]
    assert f"ETA {duration(69)}" in lines[1]
    assert "ETA 0:00" in lines[-1]


def test_epochs_turn_after_their_last_step() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(25, 0, 1, steps_per_epoch=10, interval=0.0, stream=stream, clock=clock)
    run(progress, clock, range(1, 26), seconds=1.0)
    epochs = [int(epoch) for epoch in re.findall(r"epoch (\d+)/3", stream.getvalue())]
    assert epochs == [1] * 10 + [2] * 10 + [3] * 5


def test_a_terminal_has_one_line_that_is_redrawn() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(40, 10, 8, steps_per_epoch=20, stream=stream, clock=clock)
    run(progress, clock, range(11, 41), seconds=0.2, loss=1.5)
    progress.say("saved")
    progress.close()
    drawings = stream.getvalue().split("\r")
    drawn = [int(n) for n in re.findall(r"(\d+)/40, epoch", stream.getvalue())]
    assert drawn[0] == 11
    assert drawn[-1] == 40
    assert len(set(drawn)) < 15, "redrawn at every step instead of every half second"
    assert any("loss 1.5" in drawing and "40 images/s" in drawing for drawing in drawings)
    assert "saved\n" in stream.getvalue()


def test_a_line_of_its_own_goes_to_the_log_as_it_is() -> None:
    stream = io.StringIO()
    Progress(10, 0, 1, steps_per_epoch=5, stream=stream).say("saved step 5")
    assert stream.getvalue() == "saved step 5\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (3909, "1:05:09"), (184_200, "2 d 03:10")],
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_resident_memory_follows_what_is_allocated() -> None:
    # in a process of its own: here the block may lie where earlier tests have left resident pages
    script = (
        "from diagnostics.progress import resident_bytes; before = resident_bytes(); "
        "block = bytearray(b'x') * 200_000_000; print(resident_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 150e6 < int(done.stdout) < 400e6


def test_importing_diagnostics_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'wandb', 'matplotlib', 'tqdm', 'PIL', 'numpy'}"
    script = f"import diagnostics, diagnostics.record, diagnostics.progress, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
