"""What slurm.status makes of Slurm's answers: those of a real Slurm 22.05.8, recorded, given by fake programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.jobs import Job, Slurm

# squeue --noheader --array --states=all -o '%i|%T|%M|%N|%r': before, and some time after. Job 5 is held.
QUEUED = """\
2|PENDING|0:00||Resources
3_0|PENDING|0:00||Priority
3_1|PENDING|0:00||Priority
4|PENDING|0:00||PartitionConfig
5|PENDING|0:00||JobHeldUser
1|RUNNING|0:03|127.0.0.[11-12]|None
"""
LATER = """\
1|COMPLETED|0:15|127.0.0.[11-12]|None
2|COMPLETED|0:01|127.0.0.[11-12]|None
3_1|FAILED|0:02|127.0.0.11|NonZeroExitCode
3_0|FAILED|0:02|127.0.0.11|NonZeroExitCode
5|PENDING|0:00||JobHeldUser
"""
REQUEUED = "1|PENDING|0:00||BeginTime\n"  # after scontrol requeue
# sacct -X -n -P -o JobID,State,NodeList (with slurmdbd): 4 was running then
ACCOUNTS = """\
1|COMPLETED|127.0.0.11
4|RUNNING|127.0.0.11
2_0|FAILED|127.0.0.11
2_1|FAILED|127.0.0.11
5|CANCELLED by 0|None assigned
7|CANCELLED by 0|127.0.0.11
8|REQUEUED|127.0.0.11
"""
ONE_UNKNOWN = "slurm_load_jobs error: Invalid job id specified\n"  # squeue -j 77, exit code 1; -j 77,78: nothing, 0
NO_CONTROLLER = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
NOT_SET_UP = """\
squeue: error: _establish_config_source: failed to fetch config
squeue: fatal: Could not establish a configuration source
"""
NO_ACCOUNTING = "Slurm accounting storage is disabled\n"
NO_DATABASE = """\
sacct: error: Sending PersistInit msg: Connection refused
sacct: error: Problem talking to the database: Connection refused
"""

Fake = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Returns a function: name, output, errors, exit code of a program, the only ones there -> its calls so far."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, out: str = "", err: str = "", code: int = 0) -> Callable[[], list[str]]:
        for kind, text in (("out", out), ("err", err)):
            (folder / f"{name}.{kind}").write_text(text)
        calls = folder / f"{name}.calls"
        calls.touch()
        here = f"{folder}/{name}"
        lines = [
            "#!/bin/sh",
            f'echo "$@" >> {calls}',
            f"/bin/cat {here}.out",
            f"/bin/cat {here}.err >&2",
            f"exit {code}",
        ]
        (folder / name).write_text("\n".join([*lines, ""]))
        (folder / name).chmod(0o755)
        return lambda: calls.read_text().splitlines()

    return make


def test_live_jobs_and_those_that_ended_a_short_while_ago_take_one_call(fake: Fake) -> None:
    calls = fake("squeue", QUEUED)
    assert Slurm().jobs(["1", "3_1", "2"]) == {
        "1": Job("RUNNING", "", "127.0.0.[11-12]", 3.0),
        "2": Job("PENDING", "Resources", "", 0.0),
        "3_1": Job("PENDING", "Priority", "", 0.0),
    }
    (call,) = calls()
    assert {"--array", "--states=all"} <= set(call.split())
    fake("squeue", LATER)
    assert Slurm().jobs(["3_0"]) == {"3_0": Job("FAILED", "NonZeroExitCode", "127.0.0.11", 2.0)}


def test_an_array_is_asked_for_once(fake: Fake) -> None:
    calls = fake("squeue", QUEUED)
    Slurm().jobs(["3_0", "3_1", "1"])
    (call,) = calls()
    assert "-j 1,3 " in call


@pytest.mark.parametrize(("err", "code"), [(ONE_UNKNOWN, 1), ("", 0)])
def test_forgotten_jobs_without_accounting(fake: Fake, err: str, code: int) -> None:
    fake("squeue", "", err, code)
    calls = fake("sacct", "", NO_ACCOUNTING, 1)
    slurm = Slurm()
    for _ in range(2):
        assert slurm.jobs(["77"]) == {}
        assert (slurm.answers, slurm.complaint) == (True, "")
    assert len(calls()) == 1, "an answer that will not change is asked for again"


def test_forgotten_jobs_with_accounting(fake: Fake) -> None:
    fake("squeue", "", ONE_UNKNOWN, 1)
    calls = fake("sacct", ACCOUNTS)
    slurm = Slurm()
    wanted = {
        "1": Job("COMPLETED", "", "127.0.0.11"),
        "2_1": Job("FAILED", "", "127.0.0.11"),
        "5": Job("CANCELLED", "", ""),
        "7": Job("CANCELLED", "", "127.0.0.11"),
    }
    for _ in range(2):
        assert slurm.jobs(["1", "2_1", "4", "5", "7", "99"]) == wanted  # 4: its controller says that it is not there
    assert len(calls()) == 1
    fake("squeue", REQUEUED)
    assert slurm.jobs(["1"])["1"].state == "PENDING"


def test_the_database_knows_live_jobs_while_the_controller_is_away(fake: Fake) -> None:
    fake("squeue", "", NO_CONTROLLER, 1)
    fake("sacct", ACCOUNTS)
    slurm = Slurm()
    assert slurm.jobs(["4"])["4"].state == "RUNNING"
    assert not slurm.answers


@pytest.mark.parametrize(
    ("err", "complaint"),
    [
        (NO_CONTROLLER, "squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        (NOT_SET_UP, "squeue: fatal: Could not establish a configuration source"),
    ],
)
def test_a_slurm_that_does_not_answer_is_said(fake: Fake, err: str, complaint: str) -> None:
    fake("squeue", "", err, 1)
    fake("sacct", "", NO_DATABASE, 1)
    slurm = Slurm()
    assert slurm.jobs(["1"]) == {}
    assert (slurm.answers, slurm.complaint) == (False, complaint)


def test_a_database_that_does_not_answer_is_said(fake: Fake) -> None:
    fake("squeue", "", ONE_UNKNOWN, 1)
    fake("sacct", "", NO_DATABASE, 1)
    slurm = Slurm()
    assert slurm.jobs(["1"]) == {}
    assert (slurm.answers, slurm.complaint) == (True, "sacct: Problem talking to the database: Connection refused")


def test_no_slurm_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm = Slurm()
    assert slurm.jobs([]) == {}
    assert (slurm.answers, slurm.complaint) == (True, "")
    assert slurm.jobs(["1"]) == {}
    assert (slurm.answers, slurm.complaint) == (False, "squeue was not found")


def test_a_hanging_squeue_is_ended_with_its_children(fake: Fake, tmp_path: Path) -> None:
    fake("squeue")
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\n/bin/sleep 60 &\necho $! > {tmp_path}/pid\nwait\n")
    slurm, before = Slurm(limit=0.5), time.monotonic()
    assert slurm.jobs(["1"]) == {}
    assert time.monotonic() - before < 10
    assert (slurm.answers, slurm.complaint) == (False, "squeue gave no answer within 0.5 s")
    stat = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_users_own_defaults_change_nothing(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("squeue")
    (tmp_path / "bin" / "squeue").write_text('#!/bin/sh\necho "1|RUNNING|1-02:03:04|n1|${SQUEUE_STATES:-None}"\n')
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    assert Slurm().jobs(["1"]) == {"1": Job("RUNNING", "", "n1", ((24 + 2) * 60 + 3) * 60 + 4.0)}
    assert "SQUEUE_STATES" in os.environ
