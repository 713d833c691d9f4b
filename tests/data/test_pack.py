"""Packed sets: the same samples as the folder, whatever happened on the way, and damage that is found."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import Cifar10, ImageFolder, pack
from data.packed import Packed, store_of
from data.store import read_store

ROOT = Path(__file__).parents[2]


def photo(path: Path, width: int, height: int, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of two splits: sizes, forms and names of all kinds."""
    root = tmp_path_factory.mktemp("pictures")
    photo(root / "train" / "ant" / "big.JPEG", 90, 60, 1)
    photo(root / "train" / "ant" / "small.jpg", 40, 30, 2)
    photo(root / "train" / "ant" / "small.png", 40, 30, 3)
    photo(root / "train" / "bee" / "deep" / "er" / "é.jpg", 20, 80, 4)
    photo(root / "train" / "bee" / f"{'long' * 40}.jpg", 30, 30, 5)
    photo(root / "train" / "cat" / "cmyk.jpg", 30, 30, 6, "CMYK")
    photo(root / "train" / "cat" / "gray.jpg", 30, 30, 7, "L")
    photo(root / "val" / "ant" / "1.jpg", 30, 30, 8)
    photo(root / "val" / "cat" / "1.jpg", 70, 1, 9)
    return root


def command(*words: object) -> int:
    return pack.main([str(word) for word in words])


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_sample_i_of_the_store_is_sample_i_of_the_folder(tree: Path, tmp_path: Path) -> None:
    assert command(tree, tmp_path, "--longest", 50, "--workers", 2) == 0
    for split in ("train", "test"):
        folder, packed = ImageFolder().open(tree, split), ImageFolder().open(tmp_path, split)
        assert isinstance(packed, Packed)
        assert packed.classes == folder.classes
        assert packed.labels.tolist() == folder.labels.tolist()
        for index in range(len(folder)):
            inside = str(Path(folder.name(index)).relative_to(tree))
            assert packed.name(index).split(":")[1] == inside.split("/", 1)[1] + ".jpg" * inside.endswith(".png")
            was, now = folder.image(index), packed.image(index)
            assert max(now.size) == min(50, max(was.size))
            shown = np.asarray(was.resize(now.size, Image.Resampling.BICUBIC), dtype=float)
            assert np.abs(shown - np.asarray(now)).mean() < 12  # chroma at half size
            assert np.array_equal(np.asarray(now), packed.pixels(index).permute(1, 2, 0).numpy())


def test_small_plain_jpegs_are_kept_to_the_byte_and_others_are_not(tree: Path, tmp_path: Path) -> None:
    assert command(tree, tmp_path, "--longest", 50) == 0
    with tarfile.open(tmp_path / "train" / "000000.tar") as tar:
        kept = {member.name: tar.extractfile(member).read() for member in tar}  # ty: ignore[unresolved-attribute]
    same = {
        name
        for name, data in kept.items()
        if (tree / "train" / name).is_file() and data == files(tree)[f"train/{name}"]
    }
    assert same == {"ant/small.jpg", f"bee/{'long' * 40}.jpg", "cat/gray.jpg"}
    again = io.BytesIO()
    ImageFolder().open(tree, "train").image(0).resize((50, 33), Image.Resampling.BICUBIC).save(
        again, "JPEG", quality=90, subsampling="4:2:0"
    )
    assert kept["ant/big.JPEG"] == again.getvalue()


def test_raw_pixels_are_the_images(tree: Path, tmp_path: Path) -> None:
    assert command(tree, tmp_path, "--raw", "--longest", 50) == 0
    folder, packed = ImageFolder().open(tree, "train"), ImageFolder().open(tmp_path, "train")
    assert isinstance(packed, Packed)
    assert [max(packed.image(i).size) for i in range(len(packed))] == [50, 40, 40, 50, 30, 30, 30]
    for index in range(len(folder)):
        shown = packed.image(index)
        assert np.array_equal(np.asarray(folder.image(index).resize(shown.size, Image.Resampling.BICUBIC)), shown)
        assert np.array_equal(packed.pixels(index).permute(1, 2, 0).numpy(), shown)


def cifar_batches(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {"data": random.integers(0, 255, (4, 3072), dtype=np.uint8), "labels": [3, 0, 9, 3]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def test_cifar_batches_are_packed_to_the_pixel(tmp_path: Path) -> None:
    cifar_batches(tmp_path / "batches")
    assert command(tmp_path / "batches", tmp_path / "store", "--raw") == 0
    for split, count in (("train", 20), ("test", 4)):
        batches, packed = (Cifar10().open(tmp_path / place, split) for place in ("batches", "store"))
        assert len(packed) == count
        assert packed.labels.tolist() == batches.labels.tolist()
        assert all(np.array_equal(packed.image(i), batches.image(i)) for i in range(count))
    assert command("--verify", tmp_path / "store") == 0


def test_any_number_of_workers_and_any_stop_make_the_same_bytes(tmp_path: Path) -> None:
    for number in range(60):
        photo(tmp_path / "src" / "train" / f"c{number // 20}" / f"{number}.png", 64, 64, number)
    flags = ["--raw", "--shard-mb", "1", "--longest", "200"]
    for number in range(60):  # noise as large as it gets: shards of some twenty samples
        name = tmp_path / "src" / "train" / f"c{number // 20}" / f"{number}.png"
        Image.open(name).resize((128, 128)).save(name)
    assert command(tmp_path / "src", tmp_path / "whole", *flags, "--workers", 1) == 0
    expected = files(tmp_path / "whole")
    assert len(expected) == 4
    store = tmp_path / "killed"
    going = subprocess.Popen(
        [sys.executable, "-m", "data.pack", tmp_path / "src", store, *flags, "--workers", "2"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not list(store.glob("train/0*.tar")) and going.poll() is None:
        time.sleep(0.001)
    os.kill(going.pid, signal.SIGKILL)
    going.wait()
    (store / "train" / ".000002.tar.abcd.tmp").write_bytes(b"what a kill left")
    assert command(tmp_path / "src", store, *flags, "--workers", 2) == 0
    assert files(store) == expected


def test_going_on_keeps_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        photo(tmp_path / "src" / "train" / "c" / f"{number:02d}.png", 256, 256, number)
    flags = ["--raw", "--shard-mb", 1, "--workers", 1]
    (tmp_path / "src" / "train" / "c" / "20.png").write_bytes(b"no image")
    assert command(tmp_path / "src", tmp_path / "store", *flags) == 2
    whole = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "train").iterdir()}
    assert len(whole) == 3
    with pytest.raises(ValueError, match="packing has not come to its end: run the same"):
        ImageFolder().open(tmp_path / "store", "train")
    encoded = []
    encode = pack.encode_each
    monkeypatch.setattr(pack, "encode_each", lambda *work: encoded.extend(work[2]) or encode(*work))
    assert command(tmp_path / "src", tmp_path / "store", *flags, "--skip-bad-images") == 0
    assert encoded == list(range(15, 40))
    assert all(path.stat().st_mtime_ns == time for path, time in whole.items())
    store = read_store(tmp_path / "store")
    assert [(split, index) for split, index, _ in store.skipped] == [("train", 20)]
    assert "20.png: not an image" in store.skipped[0][2]
    packed = ImageFolder().open(tmp_path / "store", "train")
    assert [packed.name(i)[-10:-4] for i in range(18, 22)] == ["18.png", "19.png", "21.png", "22.png"]


def test_what_is_wrong_with_a_command_is_said(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(words: str, *flags: object) -> None:
        assert command(*flags) == 2
        assert words in capsys.readouterr().err

    refused("--quality is of JPEGs, and --raw keeps pixels", tree, tmp_path / "s", "--raw", "--quality", 90)
    refused("two folders are wanted", tree)
    refused("no such folder", tmp_path / "nowhere", tmp_path / "s")
    refused("--splits test", tree, tmp_path / "s", "--splits", "test")
    refused("--verify checks a store", tree, tmp_path / "s", "--verify", tree)
    refused("it holds no store.json", "--verify", tree)
    refused("holds other files", tree, tree)
    assert not (tmp_path / "s").exists()
    assert command(tree, tmp_path / "s", "--longest", 50) == 0
    refused("its store has options", tree, tmp_path / "s", "--longest", 40)
    refused("its store has kind jpeg", tree, tmp_path / "s", "--raw")
    refused("holds other images", tree, tmp_path / "s", "--longest", 50, "--splits", "train")
    refused("is packed already: pack the originals", tmp_path / "s", tmp_path / "t")
    photo(tmp_path / "mixed" / "val" / "1.jpg", 9, 9, 0)
    photo(tmp_path / "mixed" / "train" / "c" / "1.jpg", 9, 9, 0)
    refused("Name the splits to pack", tmp_path / "mixed", tmp_path / "t")
    refused("val is flat: 1 images", tmp_path / "mixed", tmp_path / "t", "--splits", "val")
    photo(tmp_path / "pairs" / "train" / "1.jpg", 9, 9, 0)
    refused("train is flat: 1 images", tmp_path / "pairs", tmp_path / "t")
    refused("two folders are wanted, before the flags", "--splits", "train", tree, tmp_path / "t")
    capsys.readouterr()
    assert command(tree, tmp_path / "s", "--longest", 50) == 0
    assert "is packed already" in capsys.readouterr().out


def test_a_source_that_is_one_split(tree: Path, tmp_path: Path) -> None:
    assert command(tree / "val", tmp_path / "a") == 0
    assert list(read_store(tmp_path / "a").splits) == ["val"]
    assert command(tree / "val", tmp_path / "b", "--splits", "train") == 0
    assert len(ImageFolder().open(tmp_path / "b", "train")) == 2


def test_damage_is_found(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tree, tmp_path, "--longest", 50) == 0
    shard = tmp_path / "train" / "000000.tar"
    data = shard.read_bytes()

    def found(words: str, opens: str | None) -> None:
        capsys.readouterr()
        assert command("--verify", tmp_path) == 1
        assert words in capsys.readouterr().out
        if opens:
            with pytest.raises(ValueError, match=opens):
                ImageFolder().open(tmp_path, "train")

    shard.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    found("its sha256 is", None)
    shard.write_bytes(data[:-512])
    found("store.json says", r"--data .*000000.tar: \d+ bytes, store.json says \d+. Copy")
    shard.unlink()
    found("No such file", "000000.tar: No such file")
    shard.write_bytes(data)
    assert command("--verify", tmp_path) == 0
    held = json.loads((tmp_path / "store.json").read_text())
    held["splits"]["train"]["labels"][0][1] -= 1
    (tmp_path / "store.json").write_text(json.dumps(held))
    found("its id is not that", None)
    with pytest.raises(ValueError, match=r"no split 'holdout'; this store holds train, val"):
        ImageFolder(test="holdout").open(tmp_path, "test")
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ValueError, match=r"store.json is damaged"):
        ImageFolder().open(tmp_path, "train")


def test_a_record_names_the_store(tree: Path, tmp_path: Path) -> None:
    assert command(tree, tmp_path / "a", "--longest", 50) == 0
    assert command(tree, tmp_path / "b", "--longest", 50) == 0
    assert command(tree, tmp_path / "c", "--longest", 49) == 0
    a, b, c = (store_of(ImageFolder().open(tmp_path / name, "train")) for name in "abc")
    assert a == b != c
    assert a
    assert (a["kind"], a["longest"], a["quality"]) == ("jpeg", 50, 90)
    assert store_of(ImageFolder().open(tree, "train")) is None


def test_odd_files_become_plain_jpegs(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    odd = real_data("imagenet_odd")
    assert command(odd / "ok", tmp_path / "ok", "--splits", "train") == 0
    packed = ImageFolder().open(tmp_path / "ok", "train")
    assert len(packed) == 14
    assert all(max(packed.image(i).size) <= 400 for i in range(14))
    assert command(odd, tmp_path / "bad", "--splits", "bad", "--skip-bad-images") == 2  # not one can be read
