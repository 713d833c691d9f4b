import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from data.sets import Pixels
from evaluation.further import open_test_set, real_labels

INFO = resources.files("timm.data") / "_info"
SYNSETS = ImageNetInfo().label_names()
IMAGENET_A = (INFO / "imagenet_a_synsets.txt").read_text().split()


def folder(place: Path, *classes: str, num: int = 1) -> Path:
    """Makes `num` empty image files in a folder a class: their pixels are not looked at here."""
    for name in classes:
        (place / name).mkdir(parents=True)
        for i in range(num):
            (place / name / f"{i}.png").touch()
    return place


def validation(*numbers: int, classes: tuple[str, ...]) -> Pixels:
    """Returns a set whose images are called as ImageNet's of those numbers."""
    images = Pixels(Path(), classes, np.zeros((len(numbers), 1, 1, 3), np.uint8), np.zeros(len(numbers)))
    images.name = lambda index: f"val.tar:n01440764/ILSVRC2012_val_{numbers[index]:08d}.JPEG"
    return images


def test_a_test_set_may_have_some_of_the_classes(tmp_path):
    further = open_test_set(folder(tmp_path / "sketches", "dog", "ant", num=2), ["ant", "bee", "cat", "dog"])
    assert further.classes.tolist() == [0, 3]
    assert further.right == [(0,), (0,), (3,), (3,)]
    assert str(further) == "test sketches: 4 images, 2 classes"


def test_folders_called_by_number_are_positions_not_names(tmp_path):
    """By name 10 would come before 2, as ImageNet-V2's folders do."""
    classes = [f"n{i:08d}" for i in range(12)]
    further = open_test_set(folder(tmp_path / "v2", *map(str, range(12))), classes)
    assert [further.images.classes[label] for label in further.images.labels][:4] == ["0", "1", "10", "11"]
    assert further.classes.tolist() == list(range(12))
    assert further.right[:4] == [(0,), (1,), (10,), (11,)]
    named = open_test_set(tmp_path / "v2", sorted(map(str, range(12))))  # classes that are called so themselves
    assert named.right == [(i,) for i in range(12)]


def test_published_sets_are_known_by_their_classes(tmp_path):
    further = open_test_set(folder(tmp_path / "imagenet-a", *IMAGENET_A), SYNSETS)
    assert "ImageNet-A" in str(further)
    indices = [int(index) for index in (INFO / "imagenet_a_indices.txt").read_text().split()]
    assert further.classes.tolist() == indices
    assert further.right == [(index,) for index in indices]
    (tmp_path / "imagenet-a" / IMAGENET_A[3] / "0.png").unlink()
    (tmp_path / "imagenet-a" / IMAGENET_A[3]).rmdir()
    with pytest.raises(ValueError, match=f"not the classes of ImageNet-A: 1 missing .{IMAGENET_A[3]}"):
        open_test_set(tmp_path / "imagenet-a", SYNSETS)


def test_a_test_set_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 of its 2 classes are not among the 2 that .* \(emu\)"):
        open_test_set(folder(tmp_path / "birds", "emu", "ant"), ["ant", "bee"])
    with pytest.raises(ValueError, match=r"1 of its 1 classes .* \(7\)"):
        open_test_set(folder(tmp_path / "numbers", "7"), ["ant", "bee"])
    with pytest.raises(ValueError, match="no such folder"):
        open_test_set(tmp_path / "absent", ["ant"])


def test_real_labels_are_those_of_the_images_numbers():
    labels = json.loads((INFO / "imagenet_real_labels.json").read_text())
    assert labels[:4] == [[], [970, 795], [230, 231], [809]]  # of which timm's reader has the second for number 2
    further = real_labels(validation(2, 1, 3, 50000, classes=tuple(SYNSETS)))
    assert further.right == [(970, 795), (), (230, 231), tuple(labels[-1])]
    assert str(further) == "test ReaL: 3 images, 1000 classes"
    # of fewer classes, labels are positions among those; others do not count
    some = tuple(sorted((SYNSETS[231], SYNSETS[809], SYNSETS[970])))
    assert real_labels(validation(2, 3, 4, classes=some)).right == [(2,), (0,), (1,)]


def test_real_labels_of_other_images_are_refused():
    with pytest.raises(ValueError, match=r"1 test classes are no synsets of ImageNet-1k \(dog\)"):
        real_labels(validation(1, classes=("dog", "n01440764")))
    with pytest.raises(ValueError, match="is no image of ImageNet's validation set"):
        real_labels(validation(50001, classes=("n01440764",)))
    with pytest.raises(ValueError, match="none of the test images has a label"):
        real_labels(validation(1, classes=tuple(SYNSETS)))
