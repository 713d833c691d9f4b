"""benchmarks/probe.py runs at a tiny size, counts what a hand counts, and finds scikit-learn's regression."""

import json

import pytest

TINY = ["--rows", "200", "--width", "6", "--steps", "2000", "--images", "8", "--side", "8", "--repeats", "1"]


@pytest.fixture
def benchmark():
    pytest.importorskip("sklearn")
    from benchmarks import probe

    return probe


def test_agrees_with_scikit_learn(benchmark, tmp_path, capsys):
    benchmark.main([*TINY, "--json", str(tmp_path / "out.json")])  # its exit code is about 0.1 points of 200 rows
    written = json.loads((tmp_path / "out.json").read_text())
    for row in written["regression"]["rows"]:
        assert row["objective"] == pytest.approx(row["sklearn_objective"], rel=2e-3)
        assert row["agree"] > 97
    assert 1 / 120 < written["flop"]["resnet50"]["ratio"] < benchmark.FLOP_GOAL
    assert written["passes"]["n"] == 1
    out = capsys.readouterr().out
    assert all(word in out for word in ("bt-100ep", "dino-100ep", "scikit-learn", "12 heads in one pass"))


def test_counted_flop_of_heads_are_a_forward_and_a_gradient(benchmark):
    """Of n rows, D features and C classes: 2 n D C for the logits and as many for the weight's gradient, each step."""
    steps = 10 * (1_281_167 // 256)
    assert benchmark.cached_training(2048, 26, 1, 1.0) == 26 * 4 * 256 * 2048 * 1000 * steps
