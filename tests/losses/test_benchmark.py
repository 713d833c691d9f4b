"""The benchmarks of losses run at a tiny size, and refuse to measure formulas that do not agree with the losses."""

import json
import sys

import pytest
import torch

from benchmarks import contrastive, loss_rivals
from benchmarks import losses as losses_benchmark
from losses import BarlowTwins, NPairs, SigLIP


@pytest.fixture(autouse=True)
def _threads_stay(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep theirs


def test_writes_every_loss_with_times_memory_and_circumstances(tmp_path, capsys):
    sizes = ["--sizes", "128x1024", "--contrastive-sizes", "256x64"]
    losses_benchmark.main([*sizes, "--repeats", "2", "--json", str(tmp_path / "out.json")])
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
        assert 0 < result["ours_error"] < 2e-6
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(results := written["results"])
    assert {line.count("|") for line in table} == {15}
    assert {result["against"] for result in results} == {"transcription"}


def test_sweeps_over_sizes_and_names_the_worst(tmp_path, capsys):
    losses_benchmark.main(["--sweep", "--grid", "8", "32", "--seconds", "0.01", "--json", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(results) == 5 * 2 * 2
    worst = min(result["speedup"][0] for result in results)
    assert f"lowest: {worst:.2f}" in capsys.readouterr().out


OFFICIAL = """
class BarlowTwins(nn.Module):
    def forward(self, y1, y2):
        c = self.bn(self.projector(self.backbone(y1))).T @ self.bn(y2) / self.args.batch_size
        torch.distributed.all_reduce(c)
        rest = c.square().sum() - c.diagonal().square().sum()
        return (c.diagonal() - 1).square().sum() + self.args.lambd * rest
"""


def test_a_checkout_is_run_as_it_lies_and_named_by_its_commit(tmp_path):
    (tmp_path / "main.py").write_text(f"import torch\nfrom torch import nn\n{OFFICIAL}")
    (tmp_path / "COMMIT").write_text("0123456789abcdef\n")
    (rival,) = loss_rivals.barlowtwins_checkout(tmp_path)
    assert rival.whose == "official@0123456"
    losses_benchmark.check_equal(losses_benchmark.Case(rival.loss, rival.formula(32, 8), 32, 8, rival.whose))


def test_refuses_to_compare_formulas_that_differ():
    with pytest.raises(AssertionError):
        losses_benchmark.check_equal(losses_benchmark.Case(BarlowTwins(lambd=0.006), loss_rivals.barlow_twins, 16, 8))


def test_contrastive_writes_a_table_with_its_rival(tmp_path, capsys):
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


def test_contrastive_says_so_when_it_compares_with_its_own_transcription(monkeypatch, tmp_path):
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
