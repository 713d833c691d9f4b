"""On a login node, and in front of each rank, nothing waits for torch: the folder needs the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "slurm").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_the_standard_library_only(module: str) -> None:
    code = f"import sys, slurm.{module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run((sys.executable, "-S", "-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"slurm", "__main__"} <= set(sys.stdlib_module_names)


def test_a_task_starts_from_its_path_alone(tmp_path: Path) -> None:
    """From any folder, without PYTHONPATH, as srun starts it."""
    command = (sys.executable, "-S", str(ROOT / "slurm" / "task.py"), "--run", str(tmp_path), "--", "true")
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/bin:/usr/bin"}, check=False)
    assert done.returncode == 0
