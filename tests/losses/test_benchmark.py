"""The benchmarks of losses run at a tiny size, and refuse to measure formulas that do not agree with the losses."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from losses import BarlowTwins, NPairs, SigLIP

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep theirs
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def benchmark(monkeypatch):
    return load("losses", monkeypatch)


@pytest.fixture
def contrastive(monkeypatch):
    return load("contrastive", monkeypatch)


def test_writes_every_loss_with_times_memory_and_circumstances(benchmark, tmp_path, capsys):
    sizes = ["--rows", "64", "--features", "256", "--contrastive-rows", "256", "--contrastive-features", "16"]
    benchmark.main([*sizes, "--repeats", "2", "--json", str(tmp_path / "out.json")])
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


def test_contrastive_writes_a_table_with_its_rival(contrastive, tmp_path, capsys):
    sizes = ["--rows", "300", "--features", "256", "--repeats", "1"]
    contrastive.main([*sizes, "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"commit", "torch", "device", "threads", "load", "rival"} < set(written)
    results = written["results"]
    assert [(r["loss"], r["rows"], r["n"]) for r in results] == [("NPairs", 300, 6), ("SigLIP", 300, 6)]
    shown = capsys.readouterr().out.splitlines()
    table = [line for line in shown if line.startswith("|")]
    assert len(table) == 2 + len(results)
    assert {line.count("|") for line in table} == {14}
    for result in results:
        middle, low, high = result["speedup"]
        assert 0 < low <= middle <= high
        assert 0 <= result["float64"] < 1e-12
        assert 0 < result["float32_ours"] < 1e-4
        if sys.platform == "linux":
            assert result["ours_bytes"] > 4 * result["rows"] * result["features"]  # the gradient alone


def test_contrastive_says_so_when_it_compares_with_its_own_transcription(contrastive, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.delitem(sys.modules, "open_clip.loss", raising=False)
    whose, clip, siglip = contrastive.rivals(None)
    assert "not installed" in whose
    for loss, rival in ((NPairs(), clip), (SigLIP(), siglip)):
        assert contrastive.exactness(contrastive.against(loss, rival, 40, 8))["float64"] < 1e-12
    with pytest.raises(ModuleNotFoundError):
        contrastive.rivals(tmp_path)
    with pytest.raises(AssertionError, match="not the same loss"):
        contrastive.exactness(contrastive.against(NPairs(), lambda a, b, scale: 2 * clip(a, b, scale), 40, 8))
