"""What is wrong with a pair is counted and named, what is wrong with a set refuses it; the same in tars and folders."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data import Pairs, PairSet, open_pairs
from tests.data.pair_files import Files, picture, some, tar, tree

Write = Callable[[Path, Files], Path]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["tar", "folder"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """Returns a function: files -> the set in one of its forms."""
    if request.param == "tar":
        return lambda files: tar(tmp_path / "set.tar", files)
    return lambda files: tree(tmp_path / "set", files)


def shown(pairs: PairSet) -> dict[str, list[str]]:
    """Returns the examples of what was left out, without the place of the set."""
    return {
        reason: [e.split("set.tar:")[-1].split("/set/")[-1] for e in pairs.examples[reason]] for reason in pairs.skipped
    }


def test_single_faults_are_counted_and_named(make: Callable[[Files], Path]) -> None:
    files = some(40) | {
        "alone.png": picture(0),
        "alone too.jpg": picture(0, "JPEG"),
        "caption.txt": b"of nothing",
        "blank.png": picture(0),
        "blank.txt": b" \n\t\n",
        "latin.png": picture(0),
        "latin.txt": b"caf\xe9",
        "v.1.png": picture(0),
        "v.1.txt": b"the key ends at the first dot",
    }
    pairs = open_pairs(make(files))
    assert len(pairs) == 40
    assert pairs.skipped == {
        "image without a caption": 2,
        "dot within the name: the key ends at the first": 1,
        "caption without an image": 1,
        "empty caption": 1,
        "caption that is not UTF-8": 1,
    }
    assert sorted(shown(pairs)["image without a caption"]) == ["alone too.jpg", "alone.png"]
    assert shown(pairs)["empty caption"] == ["blank.txt"]
    assert shown(pairs)["caption that is not UTF-8"] == ["latin.txt"]


def test_names_that_mean_nothing_are_not_counted(make: Callable[[Files], Path]) -> None:
    files = some(2) | {
        "000.cls": b"1",
        "._000.png": b"macOS",
        ".DS_Store": b"",
        "noextension": b"",
        "000.seg.png": b"mask",
    }
    pairs = open_pairs(make(files))
    assert (len(pairs), pairs.skipped) == (2, {})


def test_json_captions(make: Callable[[Files], Path]) -> None:
    bad = {
        "a": b'{"url": "x", "key": 1}',
        "b": b'{"caption": null}',
        "c": b'{"caption": 7}',
        "d": b'{"caption": "cut',
        "e": b'["caption"]',
        "f": b'{"caption": "\\ud800"}',
        "g": b"\xff{}",
        "h": b"[" * 100_000,
    }
    good = {"1": b'{"caption": "one"}', "2": b'\xef\xbb\xbf{"caption": ["two", "zwei ", ""], "text": "not this"}'}
    files = {f"{key}.json": text for key, text in (bad | good).items()}
    files |= {name.replace(".json", ".png"): picture(0) for name in list(files)}
    for caption in (None, "caption"):
        pairs = open_pairs(make(files), caption=caption)
        assert [pairs.texts(i) for i in range(len(pairs))] == [("one",), ("two", "zwei")]
        assert pairs.skipped == {
            "JSON that cannot be read": 3,
            "caption that is not UTF-8": 2,
            "no field of the caption": 1,
            "empty caption": 1,
            "caption that is not text": 1,
        }
        assert shown(pairs)["no field of the caption"] == ["a.json (its fields: url, key)"]


def test_a_named_field_is_read_from_json_alone(make: Callable[[Files], Path]) -> None:
    """img2dataset writes .txt and .json; recaptioned sets add a field."""
    files: Files = {}
    for n in range(3):
        files |= {
            f"{n}.jpg": picture(n, "JPEG"),
            f"{n}.txt": b"alt",
            f"{n}.json": b'{"caption": "c", "long": "better"}',
        }
    path = make(files)
    assert open_pairs(path).texts(0) == ("alt",)
    assert open_pairs(path, caption="long").texts(0) == ("better",)
    assert Pairs(train=None, caption="long").open(path, "train").texts(0) == ("better",)
    with pytest.raises(
        ValueError, match=r"no image-text pairs .caption='none'.*no field.*3, such as .*its fields: caption, long"
    ):
        open_pairs(path, caption="none")


def test_two_images_of_one_key(make: Callable[[Files], Path]) -> None:
    """The same one counts wherever the second stands."""
    files = {
        "a.png": picture(1),
        "a.jpg": picture(2, "JPEG"),
        "a.txt": b"a",
        "b.jpg": picture(4, "JPEG"),
        "b.png": picture(3),
        "b.txt": b"b",
    }
    pairs = open_pairs(make(files))
    assert [pairs.image(i).getpixel((0, 0))[0] for i in range(2)] == [2, 4]
    assert pairs.skipped == {"second image of the same key": 2}
    assert sorted(shown(pairs)["second image of the same key"]) == ["a.png", "b.png"]


def test_of_two_members_of_one_name_the_later_counts_as_when_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    tar(path, [*some(2).items(), *some(1).items(), ("000.png", picture(9)), ("000.txt", b"nine")])
    pairs = open_pairs(path)
    assert [(pairs.image(i).getpixel((0, 0))[0], pairs.texts(i)) for i in range(2)] == [
        (1, ("number 1",)),
        (9, ("nine",)),
    ]
    assert pairs.skipped == {"replaced by a later file of the same name": 4}
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    unpacked = open_pairs(tmp_path / "tree")
    assert [unpacked.texts(i) for i in range(2)] == [("nine",), ("number 1",)]


def test_the_same_key_in_two_shards_is_two_samples(tmp_path: Path) -> None:
    for name in "ab":
        tar(tmp_path / f"{name}.tar", some(2))
    pairs = open_pairs(tmp_path)
    assert [pairs.texts(i) for i in range(4)] == [("number 0",), ("number 1",)] * 2
    assert pairs.skipped == {}


def test_members_that_lead_outside_or_are_no_files(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in some(3, "./deep/./").items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name in ("../x.png", "/etc/x.png", "a/../../x.txt"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.txt", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("latest -> not a pair's name"))
    pairs = open_pairs(path)
    assert len(pairs) == 3
    assert pairs.skipped == {"path that leads outside": 3, "link, device or sparse file": 3}
    assert shown(pairs)["path that leads outside"] == ["../x.png", "/etc/x.png", "a/../../x.txt"]


def test_names_that_are_not_utf_8(make: Callable[[Files], Path], tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        pairs = open_pairs(make({f"{name}.png": picture(5), f"{name}.txt": b"coffee"}))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert pairs.image(0).getpixel((0, 0))[0] == 5
    assert pairs.name(0).endswith("caf\\xe9.png")
    assert pairs.name(0).encode()


def test_a_caption_that_cannot_be_read_is_one_fault(tmp_path: Path) -> None:
    folder = tree(tmp_path / "set", some(2))
    (folder / "001.txt").unlink()
    (folder / "001.txt").symlink_to("nowhere")
    pairs = open_pairs(folder)
    assert (len(pairs), shown(pairs)) == (1, {"caption that cannot be read": ["001.txt (No such file or directory)"]})


def test_too_many_faults_refuse_the_set(make: Callable[[Files], Path]) -> None:
    def broken(good: int, bad: int) -> Path:
        return make(some(good) | {f"bad{n}.png": picture(0) for n in range(bad)})

    few = open_pairs(broken(1, 10))  # ten are never too many: a small folder may hold a few other pictures
    assert (len(few), few.skipped) == (1, {"image without a caption": 10})
    path = broken(98, 11)
    with pytest.raises(
        ValueError, match=r"11 left out beside 98 pairs, more than 10%. image without .*bad\d+\.png.*max_skipped"
    ):
        open_pairs(path)
    assert len(open_pairs(path, max_skipped=0.2)) == 98
    assert len(Pairs(train=None, max_skipped=0.2).open(path, "train")) == 98
    assert len(open_pairs(broken(99, 11))) == 99


def test_no_pairs_at_all(make: Callable[[Files], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image-text pairs\. It holds neither images nor captions"):
        open_pairs(make({"a.cls": b"1"}))
    with pytest.raises(ValueError, match=r"no image-text pairs. caption without an image: 1, such as .*a\.txt"):
        open_pairs(make({"a.txt": b"1"}))


def test_faults_are_counted_in_their_split_alone(make: Callable[[Files], Path]) -> None:
    path = make(some(3, "x/train/") | some(3, "x/test/") | {"x/train/bad.png": picture(0), "x/bad.txt": b"text"})
    assert open_pairs(path, "train").skipped == {"image without a caption": 1}
    assert open_pairs(path, "test").skipped == {}
    assert len(open_pairs(path, None).skipped) == 2


def test_a_damaged_shard_refuses_the_set(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", some(2))
    whole = tar(tmp_path / "1.tar", some(2)).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[:1700])
    with pytest.raises(ValueError, match=r"--data .*1\.tar: cut off at byte 1700.* again"):
        open_pairs(tmp_path)
    (tmp_path / "1.tar").write_bytes(b"<html>" * 100)
    with pytest.raises(ValueError, match=r"--retrieval .*1\.tar: not a tar"):
        open_pairs(tmp_path, flag="--retrieval")
    (tmp_path / "1.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.tar: not a tar: it is empty"):
        open_pairs(tmp_path)
