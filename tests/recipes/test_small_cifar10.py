"""benchmarks/small_cifar10.py: which runs it starts, and the table of both kinds of views."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import small_cifar10


def test_both_kinds_of_views_stand_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(command: list[str], **_: object) -> SimpleNamespace:
        flags = dict(zip(command[3::2], command[4::2], strict=True))
        out = Path(flags["--out"])
        out.mkdir()
        accuracy = 40.0 + int(flags["--seed"]) + (10 if flags["--views"] == "reference" else 0)
        rows = [
            {"encoder": "pretrained", "metrics": {"knn": {"mean": accuracy}}},
            {"encoder": "random", "metrics": {"knn": {"mean": 30.0}}},
        ]
        (out / "evaluation.json").write_text(json.dumps({"rows": rows}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pretend)
    monkeypatch.setattr(sys, "argv", ["small_cifar10.py", "--data", "D", "--out", str(tmp_path), "--seeds", "2"])
    sys.argv += ["--views", "fast", "reference"]
    assert small_cifar10.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| encoder | n | knn |"
    assert "| simclr, fast views | 2 | 40.5 ± 0.7 |" in lines
    assert "| simclr, reference views | 2 | 50.5 ± 0.7 |" in lines
    assert sum(line.startswith("| random | 2 | 30.0") for line in lines) == 1
    assert len(list(tmp_path.glob("*_*_reference/evaluation.json"))) == 8
