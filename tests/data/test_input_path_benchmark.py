"""benchmarks/input_path.py runs at a tiny size; what it counts is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import input_path
from data import decode


def test_every_part_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep theirs
    monkeypatch.setattr(decode, "SIMPLEJPEG", decode.SIMPLEJPEG)  # which the benchmark sets
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        picture = Image.fromarray(random.integers(0, 255, (150, 210, 3), dtype=np.uint8))
        picture.save(tmp_path / "images" / name / "1.jpg")
    flags = ["--repeats", "2", "--batch-size", "3", "--batches", "2", "--workers", "1"]
    input_path.main([str(tmp_path / "images"), *flags, "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"commit", "device", "torch", "repeats", "official", "images", "ring"} < set(written)
    assert written["official"].startswith("plain transcription of facebookresearch/barlowtwins")
    assert written["views"]["official"]["ratio"] == written["loader"]["official"]["ratio"] == [1, 1, 1]
    assert "ours, torchvision decodes" in written["views"]
    pixels = 2 * 3 * 224 * 224
    assert written["bytes"]["official"] == {"between_processes": 4 * pixels + 8, "to_device": 4 * pixels + 8}
    for found in written["bytes"]["ours"].values():
        assert pixels < found < 0.31e6
    assert set(written["workers_as"]) == {"processes", "threads"}
    assert capsys.readouterr().out.count("\n| ") == 3 + len(written["views"]) + 2 + 2
