"""benchmarks/chunks.py runs at a tiny size: it compares gradients before it measures."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_memory_and_time_of_chunks_are_measured(tmp_path: Path) -> None:
    sizes = ["--rows", "2", "--chunks", "2", "--size", "32", "--backbone", "test_vit", "--repeats", "1"]
    command = [sys.executable, "-m", "benchmarks.chunks", *sizes, "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["difference"] < 1e-5
    assert {name: found["rows"] for name, found in written["results"].items()} == {
        "one chunk": 2,
        "chunks": 4,
        "whole": 4,
    }
    for name in written["results"]:
        assert name in done.stdout
