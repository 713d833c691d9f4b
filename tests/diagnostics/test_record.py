import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diagnostics.record import EVENTS, METRICS, Record, read_events, read_metrics


def attempt(folder: Path, values: dict[int, float], resume_step: int = 0, **more: float) -> None:
    record = Record(folder, resume_step=resume_step)
    for step, loss in values.items():
        record.metrics(step, {"loss": loss, **more})
    record.finish(0)


def curve(folder: Path, name: str = "loss") -> dict[int, float]:
    return {line["step"]: line[name] for line in read_metrics(folder)}


def strict_lines(path: Path) -> list[dict[str, object]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_each_call_is_one_json_line_on_disk_at_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "new" / "run")
    record.metrics(10, {"loss": 2.5, "lr": torch.tensor(0.125)})
    record.metrics(10, {"probe/rankme": 7.0})
    path = tmp_path / "new" / "run" / METRICS
    first, second = strict_lines(path)  # before anything is closed
    assert (first["step"], first["loss"], first["lr"], first["attempt"]) == (10, 2.5, 0.125, 1)
    assert isinstance(first["time"], float)
    assert second["probe/rankme"] == 7.0
    record.finish(0)
    assert read_metrics(tmp_path / "new" / "run") == [{**first, **second}]


def test_non_finite_numbers_are_kept_and_the_file_stays_json(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    record.event("non_finite", values=[math.nan, 1.0], where={"loss": -math.inf}, path=tmp_path)
    record.finish(1)
    assert [strict_lines(tmp_path / METRICS)[0][key] for key in "abcd"] == ["NaN", "Infinity", "-Infinity", 1.0]
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["a"])
    assert (line["b"], line["c"], line["d"]) == (math.inf, -math.inf, 1.0)
    event = strict_lines(tmp_path / EVENTS)[1]
    assert (event["values"], event["where"], event["path"]) == (["NaN", 1.0], {"loss": "-Infinity"}, str(tmp_path))


def test_events_tell_the_start_and_the_end_of_each_attempt(tmp_path: Path) -> None:
    attempt(tmp_path, {1: 1.0})
    record = Record(tmp_path, resume_step=25)
    record.event("warning", text="collapse")
    record.finish(75)
    found = [{key: line[key] for key in line if key != "time"} for line in read_events(tmp_path)]
    assert found == [
        {"event": "start", "attempt": 1, "resume_step": 0},
        {"event": "end", "attempt": 1, "exit_code": 0},
        {"event": "start", "attempt": 2, "resume_step": 25},
        {"event": "warning", "attempt": 2, "text": "collapse"},
        {"event": "end", "attempt": 2, "exit_code": 75},
    ]


def test_repeated_steps_count_once_as_the_newest_attempt_has_them(tmp_path: Path) -> None:
    attempt(tmp_path, {10: 1.0, 20: 1.1, 30: 1.2, 40: 1.3})  # killed at 45, its checkpoint was at 25
    attempt(tmp_path, {30: 2.2}, resume_step=25)  # killed soon after
    assert curve(tmp_path) == {10: 1.0, 20: 1.1, 30: 2.2}
    attempt(tmp_path, {30: 3.2, 40: 3.3, 50: 3.4}, resume_step=25)
    assert curve(tmp_path) == {10: 1.0, 20: 1.1, 30: 3.2, 40: 3.3, 50: 3.4}
    assert len(strict_lines(tmp_path / METRICS)) == 8, "nothing is ever deleted"


def test_a_repeated_step_drops_no_other_value_of_that_step(tmp_path: Path) -> None:
    attempt(tmp_path, {20: 1.0}, **{"probe/rankme": 9.0})
    attempt(tmp_path, {20: 2.0, 30: 2.1}, resume_step=20)
    assert read_metrics(tmp_path)[0]["probe/rankme"] == 9.0
    assert curve(tmp_path) == {20: 2.0, 30: 2.1}


def test_an_attempt_that_logged_nothing_supersedes_nothing(tmp_path: Path) -> None:
    attempt(tmp_path, {10: 1.0, 20: 1.1})
    attempt(tmp_path, {}, resume_step=5)
    assert curve(tmp_path) == {10: 1.0, 20: 1.1}
    attempt(tmp_path, {10: 3.0}, resume_step=5)
    assert read_metrics(tmp_path)[0]["attempt"] == 3


def test_a_torn_last_line_is_survived_wherever_it_is_cut(tmp_path: Path) -> None:
    attempt(tmp_path / "whole", {10: 1.0, 20: 1.125, 30: 1.25})
    data = (tmp_path / "whole" / METRICS).read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(data)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / METRICS).write_bytes(data[:cut])
        whole = cut == len(data) - 1  # only the newline is missing
        assert curve(folder) == ({10: 1.0, 20: 1.125, 30: 1.25} if whole else {10: 1.0, 20: 1.125})
        attempt(folder, {30: 2.0, 40: 2.5}, resume_step=20)
        assert curve(folder) == {10: 1.0, 20: 1.125, 30: 2.0, 40: 2.5}
        assert read_metrics(folder)[-1]["attempt"] == 2


def test_a_kill_loses_no_line_that_was_logged(tmp_path: Path) -> None:
    script = """
import itertools, sys
from pathlib import Path
from diagnostics.record import Record
record = Record(Path(sys.argv[1]))
for step in itertools.count(1):
    record.metrics(step, {"loss": 1.0})
    print(step, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "500\n":
                os.kill(child.pid, signal.SIGKILL)
                break
        said = [500, *map(int, child.stdout.read().split())]
    steps = list(curve(tmp_path))
    assert steps[: said[-1]] == list(range(1, said[-1] + 1))


@pytest.mark.parametrize("freed", ["at once", "later"])
def test_a_full_disk_costs_lines_and_one_message_but_not_the_run(tmp_path: Path, freed: str) -> None:
    script = """
import resource, sys
from pathlib import Path
from diagnostics.record import Record
record = Record(Path(sys.argv[1]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
for step in range(100):
    record.metrics(step, {"loss": 1.0})
    if sys.argv[2] == "at once" and Path(sys.argv[1], "metrics.jsonl").stat().st_size == 1000:
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
record.metrics(100, {"loss": 2.0})
record.finish(0)
"""
    command = [sys.executable, "-c", script, str(tmp_path), freed]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert "the run goes on" in done.stderr
    steps = list(curve(tmp_path))
    assert steps == [*range(len(steps) - 1), 100]
    assert 5 < len(steps) < 50
    assert read_events(tmp_path)[-1]["event"] == "end"


def test_a_metric_cannot_take_a_name_of_the_line(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with pytest.raises(ValueError, match="'time'"):
        record.metrics(1, {"loss": 1.0, "time": 2.0})
    record.finish(1)
    assert read_metrics(tmp_path) == []


def test_a_folder_without_a_record_has_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    assert read_events(tmp_path) == []


def test_wandb_off_makes_neither_a_file_nor_an_import(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from diagnostics.record import Record
record = Record(Path(sys.argv[1]), wandb_mode="off")
record.metrics(1, {"loss": 1.0})
record.images(1, {"picture": Path("nowhere.png")})
record.table(1, "table", ("column",), [("value",)])
record.finish(0)
print("wandb" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert sorted(path.name for path in tmp_path.iterdir()) == [EVENTS, METRICS]
