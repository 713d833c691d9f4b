import csv
from pathlib import Path

import pytest

from diagnostics.table import Table, write_csv


def test_a_table_is_read_back(tmp_path: Path) -> None:
    rows: list[tuple[str | int | float, ...]] = [
        (3, 'a "quoted", café\nsentence', 0.123456789),
        (4, "中文", float("nan")),
    ]
    path = tmp_path / "new" / "t.csv"
    write_csv(Table(("image", "caption", "similarity"), rows), path)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["image", "caption", "similarity"],
        ["3", 'a "quoted", café\nsentence', "0.123457"],
        ["4", "中文", "nan"],
    ]
    assert [file.name for file in path.parent.iterdir()] == ["t.csv"]


def test_half_a_character_is_no_reason_to_stop(tmp_path: Path) -> None:
    write_csv(Table(("caption",), [("damaged \udcc3 caption",)]), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split("\n")[1].strip() == "damaged ? caption"


def test_an_interrupted_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_csv(Table(("n",), [(1,)]), path)
    before = path.read_bytes()

    class Broken(tuple):
        def __iter__(self):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_csv(Table(("n",), [(2,), Broken()]), path)
    assert path.read_bytes() == before
