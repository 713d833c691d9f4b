"""A few rows for people to read: kept as CSV in the run folder, mirrored to wandb as a table."""

import csv
import os
from pathlib import Path
from typing import NamedTuple


class Table(NamedTuple):
    """columns: their names. rows: each with a value a column: text, a whole number or a float."""

    columns: tuple[str, ...]
    rows: list[tuple[str | int | float, ...]]


def write_csv(table: Table, path: Path) -> None:
    """Writes the table as UTF-8 CSV under a line of column names, whole or not at all; its folder is made.

    Floats have six significant digits. Half a character, which a damaged caption may hold, becomes a question mark.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with unfinished.open("w", newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.writer(file)
        lines.writerow(table.columns)
        lines.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in table.rows)
    unfinished.replace(path)
