"""Checkpoints: round trip, damage, kills at every moment, full disks, hostile files."""

import errno
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training import checkpoint
from training.atomic import write_atomic, write_json_atomic
from training.checkpoint import CheckpointError

ROOT = Path(__file__).parents[2]


def state(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "weights": torch.randn(50_000, generator=generator), "scaler": {}}


def save_all(folder: Path, *steps: int, keep: int = 10) -> list[Path]:
    return [checkpoint.save(folder, step, state(step), keep) for step in steps]


def assert_holds(path: Path | None, step: int) -> None:
    assert path is not None
    loaded = checkpoint.load(path)
    assert loaded["step"] == step
    assert torch.equal(loaded["weights"], state(step)["weights"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_of_all_a_run_has_to_keep(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    saved = {
        "step": 7,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu", enabled=True).state_dict(),
        "recipe": {"betas": (0.9, 0.99), "names": ["a", "b"], "on": True, "off": None, "lr": 1e-3},
        "bf16": torch.randn(3).bfloat16(),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    path = checkpoint.save(tmp_path / "new" / "folder", 7, saved, keep=1)
    loaded = checkpoint.load(path)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(value, loaded["model"][name]) for name, value in saved["model"].items())
    for index, entries in saved["optimizer"]["state"].items():
        assert all(torch.equal(value, loaded["optimizer"]["state"][index][name]) for name, value in entries.items())
    assert loaded["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert (loaded["scaler"], loaded["recipe"]) == (saved["scaler"], saved["recipe"])
    assert loaded["bf16"].dtype == torch.bfloat16
    assert torch.equal(loaded["bf16"], saved["bf16"])
    assert loaded["channels_last"].is_contiguous(memory_format=torch.channels_last)


def test_the_name_carries_step_and_digest(tmp_path):
    (path,) = save_all(tmp_path, 1234)
    assert path.name == f"step_00001234.{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.pt"
    (path,) = save_all(tmp_path, 123_456_789)
    assert checkpoint.newest(tmp_path).path == path


def test_who_may_read_it_is_up_to_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        (path,) = save_all(tmp_path, 1)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_nothing_there(tmp_path):
    assert checkpoint.newest(tmp_path) == (None, {})
    assert checkpoint.newest(tmp_path / "missing") == (None, {})
    (tmp_path / "step_00000003.pt").write_bytes(b"not ours")
    (tmp_path / "encoder").mkdir()
    assert checkpoint.newest(tmp_path) == (None, {})


def test_the_last_k_are_kept(tmp_path):
    paths = save_all(tmp_path, 8, 9, 10, 100, keep=3)
    assert names(tmp_path) == sorted(path.name for path in paths[1:])
    (path,) = save_all(tmp_path, 101, keep=1)
    assert names(tmp_path) == [path.name]
    for keep, step in ((0, 5), (1, -1)):
        with pytest.raises(ValueError, match=r"keep is 0|step is -1"):
            checkpoint.save(tmp_path, step, state(1), keep)


def test_a_checkpoint_that_cannot_be_removed_does_not_stop_the_run(tmp_path):
    stuck = tmp_path / f"step_00000001.{'0' * 32}.pt"
    stuck.mkdir()
    with pytest.warns(RuntimeWarning, match="could not be removed"):
        (path,) = save_all(tmp_path, 2, keep=1)
    assert_holds(path, 2)


def flip(data: bytearray, position: int) -> None:
    data[position] ^= 1 << (position % 8)


def zero_page(data: bytearray, position: int) -> None:
    start = position // 4096 * 4096
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))


def truncate(data: bytearray, position: int) -> None:
    del data[position:]


@pytest.mark.parametrize("damage", [flip, zero_page, truncate])
def test_damage_is_noticed_and_the_one_before_taken(tmp_path, damage):
    *_, middle, last = save_all(tmp_path, 1, 2, 3)
    whole = last.read_bytes()
    rng = random.Random(0)
    for position in (0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(30))):  # headers, numbers, directory
        data = bytearray(whole)
        damage(data, position)
        assert data != whole
        last.write_bytes(data)
        found = checkpoint.newest(tmp_path)
        assert found.path == middle
        assert list(found.damaged) == [last]
        assert "changed after they were written" in found.damaged[last]
        with pytest.raises(CheckpointError, match=str(last)):
            checkpoint.load(last)
    middle.write_bytes(b"")
    found = checkpoint.newest(tmp_path)
    assert_holds(found.path, 1)
    assert list(found.damaged) == [last, middle]
    found.path.unlink()
    assert checkpoint.newest(tmp_path).path is None
    assert len(checkpoint.newest(tmp_path).damaged) == 2


def test_a_run_that_goes_on_from_before_a_damaged_one(tmp_path):
    *_, damaged = save_all(tmp_path, 10, 20, 30)
    damaged.write_bytes(b"damaged")
    save_all(tmp_path, 25, keep=2)
    assert names(tmp_path)[-1] == damaged.name  # reported, not deleted
    assert len(names(tmp_path)) == 3  # 20, 25 and the damaged one, which takes nobody's place
    assert_holds(checkpoint.newest(tmp_path).path, 25)
    (again,) = save_all(tmp_path, 30, keep=2)  # the step is reached once more
    assert checkpoint.newest(tmp_path) == (again, {})
    assert again == damaged  # the same state has the same bytes, and so the same name
    assert_holds(again, 30)


def test_another_checkpoint_of_the_same_step_is_replaced(tmp_path):
    (old,) = save_all(tmp_path, 5)
    new = checkpoint.save(tmp_path, 5, state(6), keep=3)
    assert old != new
    assert names(tmp_path) == [new.name]


def test_unreadable_is_not_taken_for_damaged(tmp_path, monkeypatch):
    older, newer = save_all(tmp_path, 1, 2)
    opened = Path.open

    def fails(number):
        def open_(self, mode="r", *rest, **options):
            if self == newer:
                raise OSError(number, os.strerror(number))
            return opened(self, mode, *rest, **options)

        return open_

    monkeypatch.setattr(Path, "open", fails(errno.EACCES))  # going on from an older step would hide it
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        checkpoint.newest(tmp_path)
    monkeypatch.setattr(Path, "open", fails(errno.EIO))  # a bad sector
    found = checkpoint.newest(tmp_path)
    assert (found.path, list(found.damaged)) == (older, [newer])


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def named_by_digest(folder: Path, content: bytes) -> Path:
    path = folder / f"step_00000001.{hashlib.sha256(content).hexdigest()[:32]}.pt"
    path.write_bytes(content)
    return path


def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path):
    torch.save({"step": 1, "weights": Hostile(tmp_path / "harm")}, tmp_path / "file")
    path = named_by_digest(tmp_path, (tmp_path / "file").read_bytes())
    with pytest.raises(CheckpointError, match=r"refused: it asks for posix\.mkdir") as raised:
        checkpoint.load(path)
    assert "weights_only" not in str(raised.value)  # torch's text explains how to run it
    assert not (tmp_path / "harm").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "harm").exists()  # so it was hostile


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        checkpoint.load(named_by_digest(tmp_path, b"hello"))
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / f"step_00000009.{'0' * 32}.pt")
    (tmp_path / "model.pt").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="carries no digest"):
        checkpoint.load(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), Path("a"), {1, 2}, object(), torch.float32])
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, value):
    with pytest.raises(ValueError, match=r"recipe\.optimizer\.1 in the state is a "):
        checkpoint.save(tmp_path, 1, {"recipe": OrderedDict(optimizer=[1, value])}, keep=1)
    with pytest.raises(ValueError, match=r"recipe has the key \(1, 2\)"):
        checkpoint.save(tmp_path, 1, {"recipe": {(1, 2): 3}}, keep=1)
    assert names(tmp_path) == []


def assert_failed_save_leaves_the_old(folder: Path, reason: str, big: dict) -> None:
    (old,) = save_all(folder, 1, keep=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match=reason) as raised:
            checkpoint.save(folder, 2, big, keep=1)
    message = str(raised.value)
    assert str(folder) in message
    assert "MiB free" in message
    assert "Free some space" in message
    assert "\n" not in message
    assert names(folder) == [old.name]  # nothing partial
    assert_holds(old, 1)
    (new,) = save_all(folder, 3, keep=1)  # and it works again once there is room
    assert names(folder) == [new.name]
    new.unlink()


def test_a_file_that_may_not_grow(tmp_path):
    """A write that fails midway on any machine: no full disk, but the same call failing (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        assert_failed_save_leaves_the_old(tmp_path, "File too large", {"weights": torch.zeros(2**20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path):
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        assert_failed_save_leaves_the_old(folder, "No space left on device", {"weights": torch.zeros(2**20)})
        assert_failed_save_leaves_the_old(
            folder, "No space left on device", {"many": [torch.zeros(100) for _ in range(2500)]}
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"step 1 could not be saved in .*file/run: Not a directory"):
        save_all(tmp_path / "file" / "run", 1)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:  # root may write anywhere: be nobody for a moment
        os.chown(closed, 65534, 65534)
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save_all(closed, 1)
        with pytest.raises(CheckpointError, match="Permission denied"):
            checkpoint.mark_done(closed, 1)
    finally:
        os.seteuid(user)


def test_an_error_that_is_not_the_disk_is_not_blamed_on_it(tmp_path, monkeypatch):
    (old,) = save_all(tmp_path, 1)

    def broken(*_):
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="device lost"):
        checkpoint.save(tmp_path, 2, state(2), keep=1)
    assert names(tmp_path) == [old.name]


def test_an_interrupted_save_leaves_the_old(tmp_path, monkeypatch):
    (old,) = save_all(tmp_path, 1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, state(2), keep=1)
    assert names(tmp_path) == [old.name]


# Forks from a process that has torch already: a kill costs milliseconds instead of an import.
KILLS = """
import itertools, os, random, signal, sys, time
from pathlib import Path
import torch
from training import checkpoint

folder, trials = Path(sys.argv[1]), int(sys.argv[2])

def state(step):
    return {"step": step, "weights": torch.arange(200_000.0) + step, "small": [torch.full((10,), step)] * 20}

def verify():
    found = checkpoint.newest(folder)
    assert found.damaged == {}, found
    loaded = checkpoint.load(found.path)
    assert torch.equal(loaded["weights"], state(loaded["step"])["weights"])
    return loaded["step"]

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

# 1. Before every single call that changes the disk
def killed_before(call):
    calls = itertools.count()
    def counted(function):
        def wrapper(*arguments):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)
        return wrapper
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    checkpoint._Hashing.write = counted(checkpoint._Hashing.write)
    checkpoint.save(folder, 2, state(2), keep=1)

steps = []
for call in itertools.count():
    for path in folder.glob("*.pt"):
        path.unlink()
    checkpoint.save(folder, 1, state(1), keep=1)
    assert not any(folder.glob(".*")), "leftovers of killed saves are gone after the next"
    _, status = os.waitpid(in_child(lambda: killed_before(call)), 0)
    steps.append(verify())
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
assert steps == sorted(steps) and set(steps) == {1, 2}, steps
print("calls", len(steps) - 1)

# 2. At random times
random.seed(trials)
started = time.perf_counter()
checkpoint.save(folder, 3, state(3), keep=2)
one = time.perf_counter() - started
step, midway = 3, 0
for _ in range(trials):
    receiving, sending = os.pipe()
    def train():
        for later in itertools.count(step + 1):
            checkpoint.save(folder, later, state(later), keep=2)
            os.write(sending, b"%d\\n" % later)
    child = in_child(train)
    os.close(sending)
    time.sleep(random.uniform(0, 5 * one))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(receiving) as pipe:
        acknowledged = [step, *map(int, pipe)][-1]
    midway += any(folder.glob(".*.tmp"))
    step = verify()
    assert step in (acknowledged, acknowledged + 1), (step, acknowledged)  # what save returned for is never lost
checkpoint.save(folder, step + 1, state(step + 1), keep=2)
assert len(list(folder.iterdir())) == 2  # nothing that a kill left adds up
print("midway", midway, "of", trials, "one save", one, "s; steps", step)
"""


def kill_trials(folder: Path, trials: int) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(folder), str(trials)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    calls, midway = done.stdout.splitlines()
    return int(calls.split()[1]), int(midway.split()[1])


def test_kill_at_any_moment_of_a_save(tmp_path):
    calls, midway = kill_trials(tmp_path, 20)
    assert calls > 10
    assert midway > 0  # some of the random kills hit a file half written


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    assert kill_trials(tmp_path, 200)[1] > 10


def test_all_finite():
    good = {
        "model": {"w": torch.ones(3, 3), "half": torch.full((9,), 6e4, dtype=torch.float16), "none": torch.empty(0)},
        "optimizer": {"state": {0: {"mu": torch.full((1000,), 3e38), "step": torch.tensor(5)}}},
        "lr": [0.1, None],
    }
    assert checkpoint.all_finite(good) is None
    assert checkpoint.all_finite({"step": 1, "counts": torch.arange(3)}) is None
    for bad in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.complex64):
            good["later"] = {"a": [torch.ones(2), torch.tensor([1.0, bad, 2.0]).to(dtype)], "b": torch.tensor(bad)}
            assert checkpoint.all_finite(good) == "later.a.1"


def test_done_mark(tmp_path):
    assert not checkpoint.is_done(tmp_path)
    assert not checkpoint.is_done(tmp_path / "missing")
    checkpoint.mark_done(tmp_path, 500)
    assert checkpoint.is_done(tmp_path)
    assert [json.loads((tmp_path / name).read_text()) for name in names(tmp_path)] == [{"step": 500}]


def test_json_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "recipe.json"
    write_json_atomic(path, {"lr": 0.1, "views": [1, None]})
    assert json.loads(path.read_text()) == {"lr": 0.1, "views": [1, None]}
    for bad, error in (({"lr": float("nan")}, ValueError), ({"lr": object()}, TypeError)):
        with pytest.raises(error):
            write_json_atomic(path, bad)
    assert json.loads(path.read_text())["lr"] == 0.1
    assert names(tmp_path) == ["recipe.json"]


def test_a_failed_write_leaves_no_file(tmp_path):
    def write(file):
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path, "x", write)
    assert names(tmp_path) == []
