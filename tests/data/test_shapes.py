"""The generated set: the same in every process, not readable from colour, and written as other tools read it."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from data import shapes
from data.shapes import SHAPES, SIDE, ShapesSet


def digest(images: ShapesSet) -> str:
    content = images.array.tobytes() + images.labels.tobytes() + "\n".join(images.captions).encode()
    return hashlib.sha256(content).hexdigest()


def test_the_form_of_a_set(images):
    assert len(images) == len(images.captions) == len(images.labels) == 600
    assert images.labels.dtype == np.int64
    assert images.classes == tuple(sorted(images.classes))
    picture = images.image(12)
    assert (picture.mode, picture.size) == ("RGB", (SIDE, SIDE))
    shape = images.classes[images.labels[12]]
    assert images.name(12).startswith("shapes/train/000012 (")
    assert images.name(12).endswith(f" {shape})")


def test_a_picture_depends_on_seed_split_and_index_only():
    few, many = ShapesSet("train", 7), ShapesSet("train", 33)
    assert np.array_equal(few.array, many.array[:7])
    assert few.captions == many.captions[:7]
    assert len({digest(ShapesSet(split, 7, seed)) for split in ("train", "val") for seed in (0, 1)}) == 4


def test_another_process_draws_the_same_picture(images):
    code = (
        "import hashlib; from data.shapes import ShapesSet; s = ShapesSet('val', 25, 3)\n"
        "print(hashlib.sha256(s.array.tobytes() + s.labels.tobytes() + '\\n'.join(s.captions).encode()).hexdigest())"
    )
    root = Path(shapes.__file__).parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert other.stdout.strip() == digest(ShapesSet("val", 25, 3)), other.stderr


def test_no_picture_or_scene_is_in_both_splits(images):
    held_out = ShapesSet("val", 600)
    train, val = ({pixels.tobytes() for pixels in split.array} for split in (images, held_out))
    assert len(train) == len(val) == 600  # nor twice in one
    assert not train & val


@pytest.mark.parametrize("count", [600, 605])
def test_classes_are_balanced(count):
    frequency = Counter(ShapesSet("val", count).labels.tolist())
    assert len(frequency) == len(SHAPES)
    assert max(frequency.values()) - min(frequency.values()) <= 1


def test_mean_colour_does_not_give_the_label_away():
    train, val = ShapesSet("train", 2000), ShapesSet("val", 1000)
    features, held_out = (split.array.mean(axis=(1, 2)) for split in (train, val))
    centres = np.stack([features[train.labels == label].mean(axis=0) for label in range(10)])
    guesses = np.square(held_out[:, None] - centres).sum(axis=2).argmin(axis=1)
    chance, deviation = 0.1, np.sqrt(0.1 * 0.9 / 1000)
    assert abs(np.mean(guesses == val.labels) - chance) < 4 * deviation


def test_write_makes_a_tree_that_torchvision_reads(tmp_path):
    shapes.write(tmp_path / "out", train=30, val=20, seed=5)
    for split, count in (("train", 30), ("val", 20)):
        expected = ShapesSet(split, count, 5)
        tree = ImageFolder(str(tmp_path / "out" / split))
        assert tuple(tree.classes) == expected.classes
        assert len(tree) == count
        for path, label in tree.samples:
            index = int(Path(path).stem)
            assert label == expected.labels[index]
            assert np.array_equal(np.asarray(Image.open(path)), expected.array[index])
            assert Path(path).with_suffix(".txt").read_text(encoding="utf-8").splitlines() == list(
                expected.texts(index)
            )
        with (tmp_path / "out" / split / "pairs.csv").open(newline="", encoding="utf-8") as file:
            pairs = list(csv.DictReader(file))
        assert [pair["caption"] for pair in pairs] == [text for i in range(len(expected)) for text in expected.texts(i)]
        assert all((tmp_path / "out" / split / pair["image"]).is_file() for pair in pairs)


def test_write_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        shapes.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_write_refuses_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="num_images 0"):
        shapes.write(tmp_path / "new", train=10, val=0)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", 10), "split 'test'"),
        (("train", 0), "num_images 0"),
        (("train", -3), "num_images -3"),
        (("train", 2.5), "num_images 2.5"),
        (("train", True), "num_images True"),
        (("train", 10, "a"), "seed 'a'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapesSet(*arguments)


def test_the_command_writes_and_refuses(tmp_path):
    root = Path(shapes.__file__).parents[1]
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "data.shapes",
        str(tmp_path / "out"),
        "--train",
        "10",
        "--val",
        "10",
    ]
    assert subprocess.run(command, cwd=root, capture_output=True).returncode == 0
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "not empty" in again.stderr
