"""Start-up: the help of a recipe is printed without the packages that only building and training need."""

from __future__ import annotations

import subprocess
import sys

from tests.runs import ROOT, environment

# Each takes from a fifth of a second to longer than torch itself.
HEAVY = ("timm", "torchvision", "torch._dynamo", "torch._inductor", "sympy", "wandb", "matplotlib", "open_clip")

SCRIPT = """
import sys
import pretrain
for recipe in ("barlow_twins_rn50", "clip_rn50_cc3m"):
    try:
        pretrain.main([recipe, "--help"])
    except SystemExit as leaving:
        print("code", leaving.code)
print("heavy", *(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_help_imports_no_heavy_package() -> None:
    command = [sys.executable, "-c", SCRIPT, *HEAVY]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines.count("code 0") == 2, done.stderr
    assert "--lambd" in done.stdout
    assert "--text-layers" in done.stdout
    assert lines[-1].split() == ["heavy"]
