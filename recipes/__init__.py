"""Recipes: one file a run worth naming. Each holds a docstring with its source and one function, `recipe`, whose
keyword arguments are its knobs. Nothing is registered: the files of this folder are the list."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Returns the names of all recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def summary(name: str) -> str:
    """Returns the recipe's first docstring line (method, backbone, data) and its published figure; imports nothing."""
    text = ast.get_docstring(ast.parse(source_text(name))) or ""
    published = re.search(r"Published:(.*?)(?=\sOurs:|\n    |\Z)", text, re.DOTALL)
    figure = " ".join(published[1].split()) if published else "none"
    return f"{text.splitlines()[0].rstrip('.')}: {figure.rstrip('.')}"


def source_text(name: str) -> str:
    """Returns the recipe's source, which the run folder keeps beside its description."""
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def load(name: str) -> Callable:
    """Returns the recipe function of that name.

    Raises:
        ValueError: there is none; the message suggests the nearest.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"no recipe {name!r}: {hint}")
    return importlib.import_module(f"recipes.{name}").recipe
