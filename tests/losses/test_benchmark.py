"""benchmarks/losses.py runs at a tiny size, and its formulas agree with the losses: it refuses to measure otherwise."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from losses import BarlowTwins

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "losses.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("benchmark_of_losses", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_writes_every_loss_with_times_memory_and_circumstances(benchmark, tmp_path, capsys):
    sizes = ["--rows", "64", "--features", "256", "--contrastive-rows", "256", "--contrastive-features", "16"]
    threads = torch.get_num_threads()
    try:
        benchmark.main([*sizes, "--repeats", "2", "--json", str(tmp_path / "out.json")])
    finally:
        torch.set_num_threads(threads)
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"commit", "torch", "python", "device", "threads", "repeats"} < set(written)
    names = [result["loss"] for result in written["results"]]
    assert sorted(names) == ["BarlowTwins", "NPairs", "NTXent", "SampleCorrelation", "VICReg"]
    shown = capsys.readouterr().out
    for result in written["results"]:
        assert result["loss"] in shown
        middle, low, high = result["speedup"]
        assert 0 < low <= middle <= high
        if sys.platform == "linux":
            smallest = 4 * result["rows"] * result["features"]  # the gradient alone
            assert result["ours_bytes"] > smallest
            assert result["official_bytes"] > smallest


def test_refuses_to_compare_formulas_that_differ(benchmark):
    with pytest.raises(AssertionError):
        benchmark.check_equal(benchmark.Case(BarlowTwins(lambd=0.006), benchmark.barlow_twins, 16, 8))
