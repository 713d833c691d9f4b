"""The example of docs/adding-a-loss.md works as written, in a copy of `losses` under another name."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "losses", tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "docs" / "adding-a-loss.md").read_text()
    (tmp_path / "copied" / "align_uniform.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    line = re.search(r"`(from \.align_uniform import .*?)`", text)[1]
    with (tmp_path / "copied" / "__init__.py").open("a") as file:
        file.write(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("copied").AlignUniform()
    for name in [name for name in sys.modules if name.split(".")[0] == "copied"]:
        del sys.modules[name]


def test_example_equals_its_slow_loop_and_its_sanity_lines(example, slow):
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 5, dtype=torch.float64, generator=random)
    terms = example(a, b)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(slow(example, a, b))
    assert sum(example(a[:1].expand(6, 5), a[:1].expand(6, 5)).values()).item() == pytest.approx(0)
    simplex = torch.eye(4, dtype=torch.float64) - 1 / 4
    assert sum(example(simplex, simplex).values()).item() == pytest.approx(example.sanity(4, 4).perfect)
    values = [sum(example(*pair).values()).item() for pair in torch.randn(20, 2, 128, 64, generator=random)]
    assert example.sanity(128, 64).independent == pytest.approx(sum(values) / 20, abs=0.02)


def test_copied_folder_is_its_own(example):
    assert type(example).__module__ == "copied.align_uniform"
    assert sys.modules["copied"].BarlowTwins.__module__ == "copied.barlow_twins"
