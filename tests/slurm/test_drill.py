"""slurm.drill: pretrain.py passes, trainings that break their word do not, and no process is left. Needs no Slurm."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm import drill
from slurm.drill_faults import FAULTS, flip_a_bit
from slurm.drill_local import Job
from tests.runs import QUIET, ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the drill needs Linux")
DEMO = ["demo", "--images", "80", "--batch-size", "16", "--epochs", "3", "--workers", "1", *QUIET]
ROW = re.compile(r"(PASS|FAIL)  (\S+) +step +(\S+)  starts (\d)  repeated +(\S+)  .*(weights .*)")


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Path]:
    """Gives the stand-in for pretrain.py, under a path of its own: nothing may be running of it after the test."""
    program = tmp_path / "standin.py"
    shutil.copyfile(Path(__file__).with_name("drill_standin.py"), program)
    yield program
    assert running(program) == []


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder for temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def running(program: Path) -> list[str]:
    """Returns the command lines that name `program`, of tasks, trainings and data workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(program) in text and folder.name != str(os.getpid()):
            found.append(text)
    return found


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def rows(text: str) -> dict[str, tuple[str, ...]]:
    """Returns the report: the fault -> (verdict, step, starts, steps repeated, weights)."""
    found = [match.groups() for line in text.splitlines() if (match := ROW.match(line))]
    return {row[1]: (row[0], *row[2:]) for row in found}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_survives(capsys: pytest.CaptureFixture[str], tmp_path: Path, temporary: Path) -> None:
    out = tmp_path / "drill"
    code = drill.main([*DEMO, "--faults", "usr2,damage", "--out", str(out)])
    text = capsys.readouterr().out
    assert code == 0, text
    found = rows(text)
    assert found["usr2"][0] == found["damage"][0] == "PASS"
    assert found["usr2"][2:] == ("2", "0", "weights equal")
    assert int(found["damage"][3]) > 0
    assert found["damage"][4] == "weights equal"
    assert "2 of 2 passed" in text
    assert "skipped a damaged checkpoint" in (out / "damage" / "slurm" / "start2_rank0.log").read_text()
    assert list(temporary.iterdir()) == []


def test_an_honest_training_survives_all(
    standin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # no real job may be touched, whoever starts a drill inside one
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = drill.main(["honest", "--seed", "3"], standin)
    text = capsys.readouterr().out
    assert code == 0, text
    found = rows(text)
    assert list(found) == list(FAULTS)
    for name, (verdict, step, starts, repeated, weights) in found.items():
        assert (verdict, starts, weights) == ("PASS", "2", "weights equal")
        assert 13 <= int(step) <= 22  # two checkpoints of 6 steps are there, a third of the run is left
        assert int(repeated) <= {"damage": 12}.get(name, 6)
    assert all(found[name][3] == "0" for name in ("usr1", "usr2", "term"))
    assert len({row[1] for row in found.values()}) > 1
    assert text.splitlines()[-1] == "8 of 8 passed"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "fault", "reason"),
    [
        ("forgets", "usr1", r"the loss of step \d+ is [\d.]+ instead of [\d.]+: compare \S+/usr1 and \S+/reference"),
        ("forgets", "kill-all", r"the loss of step \d+ is"),
        ("scratch", "kill-all", r"repeated \d+ steps, at most 6 are lost by this: see \S+/start2_rank0.log"),
        ("deaf", "usr2", r"ignored SIGUSR2: made \d+ more steps, to its end: see \S+/start1_rank0.log"),
        ("zero", "term", r"rank 0 left with 0 at SIGTERM, which Slurm takes for the end of the run"),
        ("unsaved", "usr1", r"repeated \d steps, at most 0"),
        ("hangs", "term", r"hung: still there 2 s \(--lead\) after SIGTERM: see \S+/start1_rank0.log"),
        ("stuck", "kill-all", r"hung: start 2 made no step for 6 s \(--patience\): see \S+/start2_rank0.log"),
        ("refuses", "kill-all", r"start 2, undisturbed: rank \d left with 2 \(bad input\): see \S+/start2_rank\d.log"),
    ],
)  # fmt: skip
def test_a_training_that_breaks_its_word_fails(
    standin: Path, capsys: pytest.CaptureFixture[str], temporary: Path, kind: str, fault: str, reason: str
) -> None:
    bounds = {"hangs": ["--lead", "2"], "stuck": ["--patience", "6"]}
    code = drill.main([kind, "--faults", fault, *bounds.get(kind, [])], standin)
    text = capsys.readouterr().out
    assert code == 1, text
    assert rows(text)[fault][0] == "FAIL"
    assert re.search(reason, text), text
    assert "0 of 1 passed" in text
    (kept,) = temporary.iterdir()
    assert text.splitlines()[-1] == f"kept: {kept}"
    for path in re.findall(r"see (\S+)", text):
        assert Path(path).is_file()


def test_what_passed_is_deleted_and_what_failed_stays(
    standin: Path, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    assert drill.main(["unsaved", "--faults", "kill-all,usr1"], standin) == 1
    assert "1 of 2 passed" in capsys.readouterr().out
    (kept,) = temporary.iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["reference", "usr1"]


def test_a_run_that_fails_undisturbed_is_reported(standin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drill.main(["breaks"], standin) == 1
    text = capsys.readouterr().out
    assert re.search(r"FAIL  reference.*start 1, undisturbed: rank 0 left with 1: see \S+start1_rank0.log", text)
    assert "of 8" not in text


def test_the_ranks_are_seated_as_by_torchrun(
    standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "RANK", "TORCHELASTIC_RUN_ID", "MASTER_PORT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert drill.main(["honest", "--faults", "usr1", "--out", str(tmp_path / "drill")], standin) == 0
    assert f"kept: {tmp_path / 'drill'}" in capsys.readouterr().out
    ports = set()
    for rank in range(2):
        env = json.loads((tmp_path / "drill" / "usr1" / f"env{rank}.json").read_text())
        wanted = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        assert {name: env[name] for name in wanted} == wanted
        assert (env["MASTER_ADDR"], env["OMP_NUM_THREADS"]) == ("127.0.0.1", "1")
        assert {"SLURM_JOB_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"}.isdisjoint(env)
        ports.add(env["MASTER_PORT"])
    assert len(ports) == 1
    assert ports != {"7"}


def test_when_one_rank_dies_the_others_are_ended(standin: Path, tmp_path: Path) -> None:
    """By SIGTERM, and by SIGKILL where they do not heed it."""
    for kind, wanted in (("honest", 75), ("hangs", -signal.SIGKILL)):
        run = tmp_path / kind
        arguments = (kind, "--out", str(run), "--save-every", "6")
        with Job(run, standin, arguments, ranks=2, kill_wait=1) as job:
            job.start()
            assert job.wait(60, lambda: job.step() >= 7)
            assert len(job.workers(1)) == 1
            os.kill(job.trainings(1)[0].pid, signal.SIGKILL)
            assert not job.wait(60)
            assert job.codes() == [wanted, 128 + signal.SIGKILL]
            assert job.culprit == 1
            assert job.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_process_outlives_the_drill(standin: Path, tmp_path: Path, number: signal.Signals) -> None:
    script = "import sys; from pathlib import Path; from slurm import drill; "
    script += "sys.exit(drill.main(sys.argv[2:], Path(sys.argv[1])))"
    out = tmp_path / "drill"
    command = [sys.executable, "-c", script, str(standin), "stuck", "--faults", "kill-all", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until(lambda: list(out.glob("kill-all/slurm/start2_rank1.log")) and len(running(standin)) == 7)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert running(standin) == []
        assert text.splitlines()[-1] == f"kept: {out}"
    until(lambda: not running(standin))


BAD: dict[str, tuple[list[str], str]] = {
    "fault": (["honest", "--faults", "usr1,kil-all"], "'kil-all': did you mean kill-all?"),
    "twice": (["honest", "--faults", "usr1,usr1"], "usr1 twice"),
    "worker": (["honest", "--faults", "kill-worker", "--workers=0"], "--workers should be at least 1"),
    "ranks": (["honest", "--ranks", "0"], "--ranks 0 should be positive"),
    "folder": (["honest", "--out", "HERE"], "is not empty"),
    "program": (["bad"], "there is no recipe bad"),
    "few steps": (["honest", "--save_every", "10"], "30 steps with --save-every 10 and --log-every 1 leave none"),
    "few lines": (["honest", "--log-every", "20"], "--log-every 20 leave none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_starts_nothing(
    standin: Path, tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, wanted = BAD[case]
    before = sorted(tmp_path.rglob("*"))
    assert drill.main([word.replace("HERE", str(tmp_path)) for word in arguments], standin) == 2
    told = capsys.readouterr()
    assert wanted in told.err
    assert told.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_what_pretrain_says_of_its_knobs_is_shown(capsys: pytest.CaptureFixture[str], temporary: Path) -> None:
    assert drill.main(["demo", "--ranks", "3", "--batch-size", "16"]) == 2
    assert "--batch-size 16 does not divide over 3 ranks" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []


def test_one_bit_of_the_newest_checkpoint_flips(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    paths = [tmp_path / "checkpoints" / f"step_{step:08d}.{'0' * 32}.pt" for step in (8, 12)]
    for path in paths:
        path.write_bytes(bytes(100))
    flip_a_bit(tmp_path, random.Random(0))
    assert [sum(byte.bit_count() for byte in path.read_bytes()) for path in paths] == [0, 1]
