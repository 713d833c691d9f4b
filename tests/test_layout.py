"""The import table of docs/architecture.md, the portability of the leaves, and no name that shadows another package."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {
    "losses",
    "augmentations",
    "models",
    "parallel",
    "objectives",
    "data",
    "training",
    "evaluation",
    "diagnostics",
    "recipes",
    "slurm",
}
MAY_IMPORT: dict[str, set[str]] = {
    "losses": set(),
    "augmentations": set(),
    "models": set(),
    "parallel": set(),
    "objectives": {"losses", "models", "parallel"},
    "data": {"augmentations", "parallel", "objectives"},
    "training": {"objectives", "parallel"},
    "evaluation": {"losses", "models", "objectives", "data", "parallel", "augmentations", "training", "diagnostics"},
    "diagnostics": {"losses", "parallel"},
    "recipes": OURS - {"slurm", "recipes"},
    "slurm": set(),
}
LEAVES = ("losses", "augmentations", "models", "parallel")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yields (top-level name, level) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], 0
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], node.level


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", sorted(OURS))
def test_a_folder_imports_only_what_the_table_allows(folder: str) -> None:
    for path in files(folder):
        found = {name for name, level in imports(path) if level == 0 and name in OURS}
        assert found <= MAY_IMPORT[folder] | {folder}, f"{path.relative_to(ROOT)} imports {found - MAY_IMPORT[folder]}"


@pytest.mark.parametrize("folder", LEAVES)
def test_a_leaf_works_under_another_name(folder: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(ROOT / folder, target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-c", "import elsewhere; print(elsewhere.__name__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_only_parallel_talks_to_other_processes() -> None:
    for folder in OURS - {"parallel"}:
        for path in files(folder):
            assert "torch.distributed" not in path.read_text(encoding="utf-8"), path


def test_no_folder_takes_the_name_of_an_installed_package() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import importlib.util as u; print([n for n in {sorted(OURS)} if u.find_spec(n)])",
        ],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    for name in ("datasets", "distributed", "utils", "common", "core", "configs"):
        assert not (ROOT / name).exists()


def test_wandb_and_plotting_are_imported_only_where_they_are_used() -> None:
    for folder in OURS:
        for path in files(folder):
            top = ast.parse(path.read_text(encoding="utf-8")).body
            names = {
                name
                for node in top
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
            }
            heavy = {n for n in names if n.split(".")[0] in {"wandb", "submitit", "matplotlib", "open_clip", "seaborn"}}
            assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at its top"


def test_installing_the_project_puts_no_module_into_the_environment() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"] == []
    assert importlib.util.find_spec("recipes") is not None  # from the root it is importable
