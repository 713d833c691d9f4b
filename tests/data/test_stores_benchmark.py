"""benchmarks/stores.py runs at a tiny size and writes every variant with its circumstances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import stores


def test_every_variant_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep theirs
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(random.integers(0, 255, (300, 420, 3), dtype=np.uint8)).save(
            tmp_path / "images" / name / "1.jpg"
        )
    stores.main([str(tmp_path / "images"), "--repeats", "2", "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"commit", "device", "torch", "repeats", "official", "images"} < set(written)
    assert written["official"].startswith("plain transcription of facebookresearch/barlowtwins")
    found = {row["variant"]: row for row in written["results"]}
    assert list(found) == ["official", "folder", "store, 400 px q90", "store, raw 256 px"]
    assert found["official"]["ratio"] == [1, 1, 1]
    assert found["store, raw 256 px"]["bytes"] > 2 * 256 * 183 * 3
    assert all(row["ratio"][1] <= row["ratio"][0] <= row["ratio"][2] for row in found.values())
    assert capsys.readouterr().out.count("\n| ") == 5
