"""The table of `slurm.status`: a row a run, in lines no longer than the terminal's."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .status_files import clean

Row = dict[str, Any]  # see slurm.status.look

LONG = ("why", "stderr")  # of any length: at the end of the row if all have room, else below it: the first whole
RIGHT = ("attempt", "step", "images/s", "ETA")
SHARES = {"run": 3, "state": 4, "nodes": 6}  # at most a third of the width, ..., where there is little room
LEAST = ("attempt", "nodes", "images/s", "probe", "job", "ETA")  # left out in this order where there is still less
GAP = "  "
SHORT = 18  # characters of a reason that goes with the state


def cells(row: Row) -> dict[str, str]:
    """Returns the row as text, by column."""
    state, why, step, total = row["state"], row["why"] or "", row["step"], row["total_steps"]
    if state == "silent":
        state, why = f"silent {why.removeprefix('no sign of life for ')}", ""
    elif state == "pending" and 0 < len(why) <= SHORT:
        state, why = f"pending ({why})", ""
    done = "" if step is None else f"{step}/{total} {100 * step // total}%" if total else f"{step}"
    rate, left, value = row["images_per_second"], row["seconds_left"], row["probe_value"]
    texts = {
        "run": _short(Path(row["run"])),
        "job": row["job"] or "",
        "state": state,
        "nodes": row["nodes"] or "",
        "attempt": str(row["attempt"] or ""),
        "step": done,
        "images/s": "" if rate is None else f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}",
        "ETA": "" if left is None else duration(left),
        "probe": f"{row['probe']} {'nan' if value is None else f'{value:.1f}'}" if row["probe"] else "",
        "why": why,
        "stderr": row["stderr"] or "",
    }
    return {name: clean(text) for name, text in texts.items()}


def table(rows: Sequence[Row], width: int | None) -> str:
    """Returns the rows under a heading in lines of at most `width` characters (None: of any length)."""
    texts = [cells(row) for row in rows]
    columns = [name for name in texts[0] if any(text[name] for text in texts)]
    if width is None or _width(texts, columns) <= width:
        return "\n".join(_line(text, _widths(texts, columns)) for text in [_heading(columns), *texts])
    columns = [name for name in columns if name not in LONG]
    if _width(texts, columns) > width:
        limits = {name: width // share for name, share in SHARES.items()}
        texts = [{name: _cut(text, limits.get(name), name == "run") for name, text in line.items()} for line in texts]
    for name in LEAST:
        if _width(texts, columns) > width and name in columns:
            columns.remove(name)
    widths = _widths(texts, columns)
    lines = [_line(_heading(columns), widths)]
    for text in texts:
        below = [*textwrap.wrap(text["why"], width - 4), *filter(None, [text["stderr"]])]
        lines += [_line(text, widths), *(f"    {line}" for line in below)]
    return "\n".join(_cut(line, width) for line in lines)


def duration(seconds: float) -> str:
    """Returns "45 s", "12 min", "3 h 05 min" or "2 d 04 h"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 1440 else f"{hours // 24} d {hours % 24:02} h"


def _heading(columns: Sequence[str]) -> dict[str, str]:
    return {name: {"stderr": "last line of stderr"}.get(name, name) for name in columns}


def _widths(texts: Sequence[dict[str, str]], columns: Sequence[str]) -> dict[str, int]:
    return {name: max(len(text[name]) for text in [_heading(columns), *texts]) for name in columns}


def _width(texts: Sequence[dict[str, str]], columns: Sequence[str]) -> int:
    return sum(_widths(texts, columns).values()) + len(GAP) * (len(columns) - 1)


def _line(text: dict[str, str], widths: dict[str, int]) -> str:
    parts = (text[name].rjust(size) if name in RIGHT else text[name].ljust(size) for name, size in widths.items())
    return GAP.join(parts).rstrip()


def _cut(text: str, size: int | None, front: bool = False) -> str:
    """Returns the text in `size` characters; of a path the end tells more."""
    if size is None or len(text) <= size:
        return text
    return f"…{text[len(text) - size + 1 :]}" if front else f"{text[: size - 1]}…"


def _short(path: Path) -> str:
    """Returns the path as seen from here, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)
