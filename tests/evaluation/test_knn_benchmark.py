"""benchmarks/knn.py runs at a tiny size and finds scikit-learn's answers; faiss's neighbours where it is installed."""

import json

import pytest


def test_agrees_with_faiss_and_scikit_learn(tmp_path, capsys):
    pytest.importorskip("sklearn")
    from benchmarks import knn

    sizes = ["--train", "2000", "--test", "300", "--features", "32", "--repeats", "1"]
    knn.main([*sizes, "--json", str(tmp_path / "out.json")])  # its exit code is about seconds, too
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["k"] for row in written["speed"]] == ([20, 200] if knn.faiss else [])
    assert all(row["same_neighbours"] > 0.999 for row in written["speed"])
    assert [row["protocol"] for row in written["agreement"]] == ["knn-k20-T0.07", "knn-k200-T0.1"]
    for row in written["agreement"]:
        assert abs(row["top1"] - row["sklearn_top1"]) <= 0.34  # one image
        assert row["agree"] > 0.99
        assert 20 < row["top1"] < 95
    out = capsys.readouterr().out
    assert "knn-k200-T0.1" in out
