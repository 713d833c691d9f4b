"""Signals, in real processes: blocked and polled, in workers, during a save; two Ctrl-C."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from training import stop

ROOT = Path(__file__).parents[2]


@contextmanager
def running(script: str, *arguments: str, **options):
    """A Python process in a process group of its own, with its output; killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def line(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    assert text, f"the process ended: {process.communicate()[1]}"
    return text


POLLING = """
import time
from training import stop
if {blocked}:
    stop.block()
stop.watch_interrupt()
print("ready", flush=True)
try:
    while True:
        name = stop.pending()
        if name:
            print(name, flush=True)
        time.sleep(0.005)
except KeyboardInterrupt:
    print("left", flush=True)
"""


@pytest.mark.parametrize("number", sorted(stop.SIGNALS))
def test_a_blocked_signal_is_seen_once_at_the_poll(number):
    with running(POLLING.format(blocked=True)) as process:
        assert line(process) == "ready"
        for _ in range(2):
            process.send_signal(number)
            assert line(process) == number.name  # reported again in the second round: the first report took it
        assert process.poll() is None
    with running(POLLING.format(blocked=False)) as process:
        assert line(process) == "ready"
        process.send_signal(number)
        assert process.wait(30) == -number  # what it is all for


def test_different_signals_are_all_reported():
    with running(POLLING.format(blocked=True)) as process:
        assert line(process) == "ready"
        for number in stop.SIGNALS:
            process.send_signal(number)
        assert {line(process) for _ in stop.SIGNALS} == {number.name for number in stop.SIGNALS}


def test_first_interrupt_asks_and_second_leaves():
    with running(POLLING.format(blocked=True)) as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert line(process) == "SIGINT"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert line(process) == "left"
        assert "Ctrl-C again" in process.communicate(timeout=30)[1]


def test_an_ignored_interrupt_stays_ignored():
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}  # as a shell's `command &`
    with running(POLLING.format(blocked=True), **ignore) as process:
        assert line(process) == "ready"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert line(process) == "SIGTERM"


CHILD = """
import subprocess, sys
from training import stop
stop.block()
for preexec in (stop.unblock, None):
    child = subprocess.Popen(["sleep", "60"], preexec_fn=preexec)
    child.terminate()
    try:
        print(child.wait(10 if preexec else 0.5), flush=True)
    except subprocess.TimeoutExpired:
        print("goes on", flush=True)
        child.kill()
        child.wait()
"""


def test_an_unblocked_child_can_be_ended():
    with running(CHILD) as process:
        assert line(process) == str(-signal.SIGTERM)
        assert line(process) == "goes on"


TRAINING = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from training import stop
assert "torch" not in sys.modules
stop.block()
import torch
from torch.utils.data import DataLoader, Dataset
from training import checkpoint

class Numbers(Dataset):
    def __len__(self):
        return 100_000
    def __getitem__(self, i):
        time.sleep(0.002)
        return torch.tensor(i)

def noisy_fsync(descriptor, fsync=os.fsync):
    # What arrives while a checkpoint is written, once at each of its stages
    os.killpg(0, signal.SIGTERM)
    os.killpg(0, signal.SIGUSR2)
    fsync(descriptor)

stop.watch_interrupt()
batches = iter(DataLoader(Numbers(), batch_size=2, num_workers=2, worker_init_fn=stop.in_worker,
                          multiprocessing_context="fork"))
for _ in range(2):  # one of each worker, so that both have set up their signals before any comes
    next(batches)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
workers = multiprocessing.active_children()
print(*(worker.pid for worker in workers), flush=True)
reasons = set()
for step, batch in enumerate(batches, start=2):
    assert batch.tolist() == [2 * step, 2 * step + 1]  # no worker lost, no batch twice
    reason = stop.pending()
    if reason:
        reasons.add(reason)
        print(reason, flush=True)
    if reasons == {"SIGTERM", "SIGUSR1", "SIGINT"}:
        break
for _ in range(20):  # a worker that was hit would be missed by now
    next(batches)
assert all(worker.is_alive() for worker in workers)
masks = [int(line.split()[1], 16) for status in Path("/proc/self/task").glob("*/status")
         for line in status.read_text().splitlines() if line.startswith("SigBlk")]
assert all(mask >> (number - 1) & 1 for mask in masks for number in stop.SIGNALS), masks
os.fsync = noisy_fsync
checkpoint.save(Path(sys.argv[1]), step, {"weights": torch.arange(1000.0)}, keep=1)
print("saved", flush=True)
del batches
sys.exit(stop.STOPPED_EXIT)
"""


def test_a_training_process_with_workers_saves_and_leaves(tmp_path):
    from training import checkpoint

    with running(TRAINING, str(tmp_path)) as process:
        workers = [int(pid) for pid in line(process).split()]
        assert len(workers) == 2
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            for worker in workers:
                os.kill(worker, signal.SIGINT)  # three in all: a worker that does not ignore them leaves at the second
            os.killpg(process.pid, number)
            assert line(process) == number.name
        assert line(process) == "saved"
        _, errors = process.communicate(timeout=60)
        said = f"exit code {process.returncode}, stderr: {errors}"
        assert (process.returncode, errors.strip().splitlines()[1:]) == (stop.STOPPED_EXIT, []), said
    found = checkpoint.newest(tmp_path)
    assert found.damaged == {}
    assert checkpoint.load(found.path)["weights"].tolist() == list(range(1000))
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_needs_the_standard_library_only():
    script = (
        "import sys; from training import stop; print(*(m for m in sys.modules if 'torch' in m or 'numpy' in m), '.')"
    )
    with running(script) as process:
        assert line(process) == "."


def test_exit_codes_can_be_told_apart():
    codes = {stop.BAD_INPUT_EXIT, stop.NON_FINITE_EXIT, stop.STOPPED_EXIT}
    assert len(codes) == 3
    assert all(1 < code < 128 for code in codes)  # 1 is Python's own for a traceback, 128 + n the shell's for signal n


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "3"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"RANK": "0", "SLURM_PROCID": "1"}, True),  # torchrun inside srun: its own ranks count
        ({"RANK": "5", "SLURM_PROCID": "0"}, False),
    ],
)
def test_first_rank(monkeypatch, variables, first):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert stop.is_first_rank() == first
