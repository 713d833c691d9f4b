"""benchmarks/zero_shot.py runs at a tiny size, agrees with open_clip there, and says when it does not."""

import json

import pytest

TINY = ["--images", "100", "--templates", "2", "--features", "32"]


@pytest.fixture
def benchmark():
    pytest.importorskip("open_clip")
    from benchmarks import zero_shot

    return zero_shot


def test_agrees_with_open_clip(benchmark, tmp_path, capsys):
    assert benchmark.main([*TINY, "--json", str(tmp_path / "out.json")]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    names = list(written["metrics"])
    assert len(names) == 2 + 6 + 6
    assert written["classes"] < 1e-6
    assert any(10 < ours < 90 for ours, _ in written["metrics"].values())  # else nothing is compared
    assert written["collapsed"]["retrieval/image_to_text/R@1"][0] == pytest.approx(1)
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "all embeddings equal", "seconds"))


def test_a_difference_is_an_error(benchmark, capsys, monkeypatch):
    right = benchmark.recall
    monkeypatch.setattr(benchmark, "recall", lambda *given: {k: v * 0.99 for k, v in right(*given).items()})
    assert benchmark.main(TINY) == 1
    assert "the two differ by" in capsys.readouterr().err
