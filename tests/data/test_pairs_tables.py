"""Tables of pairs: columns, separators, quotes, splits, and the same samples as the folder beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data import BadImage, Pairs, PairSet, open_pairs
from tests.data.pair_files import picture, some, tar, tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with images 000.png to 119.png, without captions beside them."""
    for number in range(120):
        (tmp_path / f"{number:03d}.png").write_bytes(picture(number))
    return tmp_path


def samples(pairs: PairSet) -> list[tuple[int, tuple[str, ...]]]:
    return [(pairs.image(i).getpixel((0, 0))[0], pairs.texts(i)) for i in range(len(pairs))]


def refused(where: Path, words: str, **options: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_pairs(where, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'file,caption,x\n000.png,"one, two",1\n001.png,"a ""b""\nc",2\n'),
        ("a.tsv", 'filepath\ttitle\n000.png\tone, two\n001.png\t"a ""b""\nc"\n'),
        ("a.csv", 'filepath\ttitle\r\n000.png\tone, two\r\n001.png\t"a ""b""\nc"\r\n'),  # as open_clip has them
        ("a.csv", 'image;text\n000.png;one, two\n\n001.png;"a ""b""\nc"\n'),
        (
            "a.jsonl",
            '{"file_name": "000.png", "text": "one, two"}\n\n{"file_name": "001.png", "text": "a \\"b\\"\\nc"}\n',
        ),
        ("a.csv", '\ufefffile,caption\n000.png,"one, two"\n./001.png,"a ""b""\nc"'),  # as Excel writes UTF-8
    ],
    ids=["csv", "tsv", "open_clip", "semicolons", "jsonl", "excel"],
)
def test_every_kind_of_table(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    assert samples(open_pairs(folder / name)) == [(0, ("one, two",)), (1, ('a "b"\nc',))]


def test_a_quote_in_a_table_with_tabs_may_mean_itself(folder: Path) -> None:
    (folder / "a.tsv").write_text('file\tcaption\n000.png\t"hello" she said\n001.png\tso "what\n002.png\t"open\n')
    assert [texts for _, texts in samples(open_pairs(folder / "a.tsv"))] == [
        ('"hello" she said',),
        ('so "what',),
        ('"open',),
    ]
    (folder / "a.csv").write_text('file,caption\n000.png,"hello" she said\n')
    refused(folder / "a.csv", r"a\.csv: line 2: ',' expected after '\"'")
    (folder / "a.csv").write_text('file,caption\n000.png,one\n001.png,"open\n002.png,two\n')
    refused(folder / "a.csv", r"a\.csv: line 4: unexpected end of data")
    for name, between in (("a.csv", ","), ("a.tsv", "\t")):
        (folder / name).write_text(f"file{between}caption\n000.png{between}{'x' * 200_000}\n")
        refused(folder / name, r": line 2: field larger than field limit")


def test_rows_of_one_image_are_its_captions(folder: Path) -> None:
    (folder / "a.csv").write_text("file,caption\n001.png,b\n000.png,x\n001.png,a\n000.png,y\n002.png,b\n001.png,c\n")
    pairs = open_pairs(folder / "a.csv")
    assert samples(pairs) == [(1, ("b", "a", "c")), (0, ("x", "y")), (2, ("b",))]
    rows = [("001.png", ["b", "a"]), ("000.png", "x"), ("001.png", "c")]
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"file": f, "caption": c}) for f, c in rows))
    assert samples(open_pairs(folder / "a.jsonl")) == [(1, ("b", "a", "c")), (0, ("x",))]


def test_columns_may_be_named(folder: Path) -> None:
    (folder / "a.csv").write_text("file,caption,other,long\n000.png,no,001.png,yes\n")
    assert samples(open_pairs(folder / "a.csv")) == [(0, ("no",))]
    assert samples(open_pairs(folder / "a.csv", image="other", caption="long")) == [(1, ("yes",))]
    spec = Pairs(train=None, image="other", caption="long")
    assert samples(spec.open(folder / "a.csv", "train")) == [(1, ("yes",))]
    refused(
        folder / "a.csv",
        r"a\.csv: no 'x', so no column of the image; its columns: file, caption, other, long",
        image="x",
    )
    refused(folder / "a.csv", "no 'y', so no column of the caption", caption="y")
    (folder / "b.tsv").write_text("a photo\thttp://x/000.jpg\n")  # CC3M's own table
    refused(folder / "b.tsv", r"without rows")
    (folder / "b.tsv").write_text("a photo\thttp://x/0.jpg\nanother\thttp://x/1.jpg\n")
    refused(folder / "b.tsv", r"none of file, image, .*; its columns: a photo, http://x/0.jpg")


def test_splits_are_a_column(folder: Path) -> None:
    (folder / "a.csv").write_text("file,split,caption\n000.png,train,a\n001.png,val,b\n000.png,val,c\n")
    spec = Pairs(test="val")
    assert samples(spec.open(folder / "a.csv", "train")) == [(0, ("a",))]
    assert samples(spec.open(folder / "a.csv", "test")) == [(1, ("b",)), (0, ("c",))]
    assert samples(open_pairs(folder / "a.csv")) == [(0, ("a", "c")), (1, ("b",))]
    refused(folder / "a.csv", "no row of split 'test'; those there are: train, val", split="test")
    (folder / "b.csv").write_text("file,caption\n000.png,a\n")
    refused(folder / "b.csv", "no column 'split' to find 'test' in; its columns: file, caption", split="test")


def test_single_faults_are_counted(folder: Path) -> None:
    rows = [f"{n:03d}.png,number {n}" for n in range(60)]
    rows += [",no path", "000.png,", "000.png", "http://x/y.png,web", "https://x/y.png,web"]
    (folder / "a.csv").write_bytes("\n".join(["file,caption", *rows]).encode() + b"\n001.png,caf\xe9")
    pairs = open_pairs(folder / "a.csv")
    assert len(pairs) == pairs.num_texts == 60
    assert pairs.skipped == {
        "row with a URL: its image is not on this disk": 2,
        "row without an image's path": 1,
        "empty caption": 1,
        "no field of the caption": 1,
        "caption that is not UTF-8": 1,
    }
    assert pairs.examples["caption that is not UTF-8"] == [f"{folder}/a.csv (line 67)"]
    assert (
        pairs.examples["row with a URL: its image is not on this disk"][0]
        == f"{folder}/a.csv (line 65, http://x/y.png)"
    )


def test_single_faults_of_json_lines_are_counted(folder: Path) -> None:
    lines = [
        "not json",
        '{"file": "000.png", "caption": "a"}',
        "[1]",
        '{"file": {"path": "x"}, "caption": "a"}',
        '{"file": "001',
    ]
    (folder / "a.jsonl").write_text("\n".join(lines))
    pairs = open_pairs(folder / "a.jsonl")
    assert samples(pairs) == [(0, ("a",))]
    assert pairs.skipped == {"JSON that cannot be read": 3, "row without an image's path": 1}
    (folder / "a.jsonl").write_text("[1]\n2\n")
    refused(folder / "a.jsonl", "a table without rows")
    (folder / "a.jsonl").write_text("")
    refused(folder / "a.jsonl", "a table without rows")


def test_missing_images_are_found_when_read_many_when_opened(folder: Path) -> None:
    def table(missing: int) -> Path:
        names = [f"{n:03d}.png" if n >= missing else f"gone/{n}.png" for n in range(120)]
        (folder / "a.csv").write_text("file,caption\n" + "".join(f"{name},text\n" for name in names))
        return folder / "a.csv"

    pairs = open_pairs(table(10))
    assert len(pairs) == 120
    with pytest.raises(BadImage, match=r"gone/3\.png: .*No such file"):
        pairs.image(3)
    refused(table(11), rf"11 of its first 100 images are missing, such as gone/0\.png: a path .* starts at {folder}")
    refused(table(120), "100 of its first 100")


def test_absolute_paths_and_paths_above_the_table(folder: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text(f"file,caption\n{folder}/003.png,absolute\n../004.png,above\n")
    assert samples(open_pairs(folder / "tables" / "a.csv")) == [(3, ("absolute",)), (4, ("above",))]


def test_a_folder_is_read_by_its_table_where_no_captions_stand_beside_the_images(folder: Path, tmp_path: Path) -> None:
    (folder / "pairs.csv").write_text("file,split,caption\n000.png,train,a\n001.png,val,b\n")
    assert samples(Pairs(test="val").open(folder, "test")) == [(1, ("b",))]
    assert len(open_pairs(folder)) == 2
    (folder / "000.txt").write_text("beside it")  # now the folder is a set by itself
    with pytest.raises(ValueError, match="119 left out beside 1 pairs"):
        open_pairs(folder)
    assert len(open_pairs(folder / "pairs.csv")) == 2
    (folder / "000.txt").unlink()
    (folder / "pairs.jsonl").write_text("{}")
    refused(folder, r"holds pairs\.csv, pairs\.jsonl: name the one to read")


def test_a_table_beside_the_folders_of_splits(tmp_path: Path) -> None:
    files = {
        name: data for name, data in (some(3, "set/train/") | some(2, "set/val/", 3)).items() if name.endswith(".png")
    }
    rows = [f"{name[4:]},{name.split('/')[1]},{name[-5]}" for name in files]
    tree(tmp_path, files | {"set/pairs.csv": "\n".join(["file,split,caption", *rows]).encode()})
    for root in (tmp_path / "set", tmp_path):
        assert samples(open_pairs(root, "val")) == [(3, ("3",)), (4, ("4",))]
    refused(tmp_path, "no row of split 'test'; those there are: train, val", split="test")


def test_a_table_among_other_sources(folder: Path) -> None:
    shard = tar(folder / "shards" / "a.tar", some(1, start=200))
    (folder / "a.csv").write_text("file,caption\n001.png,b\n")
    assert samples(open_pairs(Path(f"{folder}/a.csv::{shard}"))) == [(1, ("b",)), (200, ("number 200",))]


@pytest.mark.parametrize("name", ["emoji", "coco_captions"])
def test_real_tables_equal_the_folders_beside_them(name: str, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = real_data(name)
    with (root / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r | {"file": f"{root}/{r['file']}"}) + "\n" for r in rows))
    for split in sorted({row["split"] for row in rows}):
        captions = {}
        for row in rows:
            if row["split"] == split:
                captions.setdefault(f"{root}/{row['file']}", []).append(row["caption"])
        for where in (root, root / "pairs.csv", tmp_path):
            pairs = open_pairs(where, split)
            assert {pairs.name(i): list(pairs.texts(i)) for i in range(len(pairs))} == captions
            assert pairs.skipped == {}
