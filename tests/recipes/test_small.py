"""benchmarks/small.py: which runs it starts and evaluates, and the table of both kinds of views."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import small


def metric(value: float) -> dict[str, object]:
    return {"mean": value, "std": 0.1, "n": 3, "values": [value], "interval": [value - 1, value + 1], "num_images": 9}


def test_both_kinds_of_views_stand_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def pretend(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command[1:])
        flags = dict(zip(command[3::2], command[4::2])) | dict(zip(command[2::2], command[3::2]))
        if command[1] == "pretrain.py":
            knobs = {"loss": flags["--loss"], "seed": int(flags["--seed"])}
            described = {"seed": knobs["seed"], "loss": knobs["loss"], "view_execution": flags["--views"]}
            out = Path(flags["--out"])
            out.mkdir(exist_ok=True)
            record = {"recipe": command[2], "knobs": knobs, "described": described}
            (out / "recipe.json").write_text(json.dumps(record))
            return SimpleNamespace(returncode=0)
        out = Path(flags["--run"])
        _, seed, views = out.name.rsplit("_", 2)
        accuracy = 40.0 + int(seed) + (10 if views == "reference" else 0)
        rows = [
            {"encoder": encoder, "metrics": {"knn-k20-T0.07/top1": metric(value)}}
            for encoder, value in (("pretrained", accuracy), ("random init", 30.0), ("raw pixels", 20.0))
        ]
        seen = {"data": {}, "data_root": None, "view": {}, "classes": ["a", "b"], "num_test": 9}
        weights = {"sha256": out.name}
        (out / "eval").mkdir()
        content = {"format": 1, "protocol": {"id": "cached"}, "rows": rows, "weights": weights, **seen}
        (out / "eval" / "cached.json").write_text(json.dumps(content))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pretend)
    monkeypatch.setattr(sys, "argv", ["small", "small_cifar10", "--data", "D", "--out", str(tmp_path), "--seeds", "2"])
    sys.argv += ["--views", "fast", "reference"]
    assert small.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| run | n | knn-k20-T0.07/top1 |"
    fast = next(line for line in lines if "simclr" in line and "reference" not in line)
    reference = next(line for line in lines if "simclr" in line and "reference" in line)
    assert fast.endswith("| 2 | 40.50 ± 0.71 [39.50, 41.50] |")
    assert reference.endswith("| 2 | 50.50 ± 0.71 [49.50, 51.50] |")
    assert "| random init | 1 | 30.00 [29.00, 31.00] |" in lines
    assert "| raw pixels | 1 | 20.00 [19.00, 21.00] |" in lines
    assert len(commands) == 2 * 4 * 2 * 2
    assert small.main() == 0
    assert len(commands) == 2 * 4 * 2 * 2 + 2 * 4 * 2, "what is evaluated already was evaluated again"
