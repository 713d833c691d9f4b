"""The table of slurm.status and its command line; no cluster is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from slurm import status
from slurm.jobs import Job
from slurm.status_table import duration, table
from tests.runs import ROOT
from tests.slurm.run_folders import NOW, RUNNING, beat, look, started


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return started(tmp_path / "run")


# ---- the table


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, None])
def test_a_table_keeps_to_the_width(run: Path, width: int | None) -> None:
    beat(run)
    (run / "slurm" / "7_0_log.err").write_text("epoch 3/100, " * 20)
    rows = [look(run, RUNNING), look(run, Job("PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-400]"))]
    rows.append(look(run, Job("FAILED", "NonZeroExitCode", "n[1-2,7-9,11-13,15-17]")) | {"run": "x" * 70 + "/seed=1"})
    lines = table(rows, width).splitlines()
    assert all(len(line) <= (width or 10_000) for line in lines)
    assert len(lines) == (4 if width is None else 1 + 3 * 2 + 2)  # each log has a line, and the reasons
    assert {"run", "state", "step"} <= set(lines[0].split())
    assert any("30%" in line and "300/1000" in line for line in lines)
    assert any("/seed=1" in line for line in lines)


def test_a_column_nobody_fills_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").touch()
    assert table([look(tmp_path)], 100).splitlines()[0].split() == ["run", "state", "why"]


def test_durations() -> None:
    shown = {0: "0 s", 59.4: "59 s", 59.6: "1 min", 3569: "59 min", 3570: "1 h 00 min", 7500: "2 h 05 min"}
    shown |= {86369: "23 h 59 min", 86370: "1 d 00 h", 100 * 3600: "4 d 04 h"}
    assert {seconds: duration(seconds) for seconds in shown} == shown


# ---- the command


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_slurm")
def test_runs_are_found_three_folders_deep_in_the_order_of_numbers(tmp_path: Path, capsys: Any) -> None:
    for name in ("a/b/seed=10", "a/b/seed=9", "a/one", "a/one/not-this", ".hidden/no", "a/b/c/too-deep"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "recipe.json").touch()
    assert status.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a/b/seed=9", "a/b/seed=10", "a/one"]
    assert status.main(["a/one", "a/b/c", f"{tmp_path}/a/one"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "a/one", "a/b/c/too-deep"]


@pytest.mark.usefixtures("no_slurm")
def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (["nowhere"], ["empty"], []):
        assert status.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert (*arguments, ".")[0] in err
        assert "a run folder has recipe.json or slurm/history.jsonl in it" in err


@pytest.mark.usefixtures("no_slurm")
def test_json_says_the_same(run: Path, capsys: Any) -> None:
    beat(run, ago=NOW - time.time() - 60)  # in a minute, by another host's clock
    assert status.main(["--json", str(run.parent)]) == 0
    out, err = capsys.readouterr()
    (row,) = map(json.loads, out.splitlines())
    assert (row["run"], row["job"], row["state"], row["step"]) == (str(run), "7", "running", 300)
    assert err == "slurm.status: squeue was not found; the rest is from the run folders\n"


@pytest.mark.usefixtures("no_slurm")
def test_watch_looks_again_until_ctrl_c(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        (run / "done.json").write_text('{"step": 10}')
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert status.main(["--watch", "7", str(run)]) == 0
    out = capsys.readouterr().out
    assert slept == [7, 7]
    assert out.index("unknown") < out.index("done")


def test_it_needs_nothing_but_the_standard_library() -> None:
    script = "import sys; before = set(sys.modules); import slurm.status; print(*set(sys.modules) - before)"
    command = [sys.executable, "-S", "-c", script]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.split(".")[0] == "slurm"}
    others = {name.split(".")[0] for name in done.stdout.split()} - {"slurm"}
    assert others <= set(sys.stdlib_module_names)
    assert ours == {
        "slurm",
        *(f"slurm.{name}" for name in ("history", "jobs", "status", "status_files", "status_table")),
    }
