"""The table of benchmarks/parity.py, on a few images: what docs/augmentations.md claims of it; and both scripts run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import parity, views

EXACT = {"brightness", "contrast", "saturation", "hue", "gray", "blur", "solarize"}


def check(rows: dict[str, dict[str, float]], count: int) -> None:
    assert {row["images"] for row in rows.values()} == {count}
    exact = {name for name, row in rows.items() if row["max"] == 0}
    assert exact >= EXACT | {f"{name}, same crop" for name in parity.WHOLE}
    for name, row in rows.items():
        assert row["mean"] <= (0.05 if name.startswith("crop") else 0.6), name
    assert rows["crop, bicubic, across first"]["mean"] < 0.01


def test_generated_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parity.main(["--images", "4", "--size", "64", "--json", str(tmp_path / "parity.json")])
    check(json.loads((tmp_path / "parity.json").read_text())["rows"], 4)
    assert "| hue | 0.0000 | 0 | 0 | 0.0000 | 4 |" in capsys.readouterr().out


def test_photos(real_data: Callable[[str], Path]) -> None:
    check(parity.measure(real_data("imagenet_sample"), 12, 96), 12)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no images"):
        parity.main(["--data", str(tmp_path)])


def test_the_times_of_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views.main(["--images", "1", "--repeats", "1", "--json", str(tmp_path / "views.json")])
    rows = json.loads((tmp_path / "views.json").read_text())["rows"]
    assert set(rows) == set(parity.WHOLE)
    assert all(row["both"] > 0 and len(row["over torchvision"]) == 3 for row in rows.values())
    assert "| SimCLR, CIFAR |" in capsys.readouterr().out
