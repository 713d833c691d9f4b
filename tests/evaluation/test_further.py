import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import ImageNetInfo

import eval_linear
from data.sets import Pixels
from evaluation.classifier import Classifier, Head
from evaluation.flags import Images
from evaluation.further import FurtherSet, further_sets, open_test_set, real_labels

INFO = resources.files("timm.data") / "_info"
SYNSETS = ImageNetInfo().label_names()
FAST = ["--workers", "0", "--device", "cpu", "--epochs", "2", "--knn-k", "3"]
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
    assert str(further) == f"test sketches: 4 images, 2 classes: {tmp_path / 'sketches'}"


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


def test_heads_answer_one_of_the_sets_classes_and_any_right_one_counts():
    """Features are the logits themselves, of two seeds: the second answers with the class of lowest logit."""
    classifier = Classifier((Head(torch.eye(8), torch.zeros(8)), Head(-torch.eye(8), torch.zeros(8))))
    logits = torch.tensor(
        [
            [9.0, 8, 7, 6, 5, 4, 3, 2],
            [9.0, 8, 7, 6, 5, 4, 3, 2],
            [9.0, 8, 7, 6, 5, 4, 3, 2],
            [9.0, 8, 7, 6, 5, 4, 3, 2],
        ]
    )
    images = Pixels(Path(), tuple("abcdefgh"), np.zeros((4, 1, 1, 3), np.uint8), np.zeros(4))
    some = FurtherSet("some", images, np.array([1, 4, 6]), [(1,), (4,), (6,), (1,)])
    found = some.accuracies(classifier, logits)
    assert {name: metric.values for name, metric in found.items()} == {"top1": (50, 25)}
    several = FurtherSet("several", images, np.arange(8), [(0, 7), (5, 6), (), (3,)])
    found = several.accuracies(classifier, logits)
    assert found["top1"].values == pytest.approx((100 / 3, 100 / 3))
    assert found["top5"].values == pytest.approx((200 / 3, 100))
    assert found["top1"].num_images == 3  # one has no label


def test_two_sets_of_one_name_are_refused(tmp_path):
    images = validation(2, classes=tuple(SYNSETS))
    folders = tuple(folder(tmp_path / place / "v2", SYNSETS[0]) for place in "ab")
    with pytest.raises(ValueError, match="2 of the sets of --test and --real are called v2"):
        further_sets(Images(test=folders), images)
    assert [further.name for further in further_sets(Images(test=folders[:1], real=True), images)] == ["v2", "ReaL"]


@pytest.fixture
def some_classes(tmp_path, images):
    """Returns a folder with the test images of two of the seven classes."""
    (tmp_path / "some").mkdir()
    for name in ("c5", "c1"):
        (tmp_path / "some" / name).symlink_to(images / "val" / name)
    return tmp_path / "some"


def test_the_same_heads_on_further_sets_and_others_on_transfer_sets(run, images, some_classes, tmp_path):
    (tmp_path / "again").symlink_to(images / "val")
    (tmp_path / "elsewhere").symlink_to(images)
    argv = ["--run", str(run), *FAST, "--seeds", "2", "--random-baseline"]
    argv += ["--test", str(tmp_path / "again"), str(some_classes), "--transfer", str(tmp_path / "elsewhere")]
    assert eval_linear.main(argv) == 0
    result = json.loads((run / "eval" / "cached-2ep.json").read_text())
    rows = {(row["images"], row["encoder"]): row["metrics"] for row in result["rows"]}
    encoders = ["pretrained", "random init", "raw pixels"]
    assert list(rows) == [(name, encoder) for name in ("", "again", "some", "elsewhere") for encoder in encoders]
    for encoder in encoders:
        linear, neighbours = "linear-cached-2ep/top1", "knn-k3-T0.07/top1"
        assert rows["again", encoder][linear] == rows["", encoder][linear]
        assert rows["elsewhere", encoder] == rows["", encoder]  # the same images: the same heads
        assert list(rows["some", encoder]) == [linear]
        assert rows["some", encoder][linear]["num_images"] == 6
        assert neighbours not in rows["again", encoder]
    assert [other["name"] for other in result["further_tests"]] == ["again", "some"]
    assert [other["num_train"] for other in result["transfers"]] == [42]


def test_further_sets_that_do_not_fit_are_refused_in_a_line(run, images, some_classes, tmp_path, capsys):
    def refused(*argv: str) -> str:
        assert eval_linear.main(["--run", str(run), *FAST, *argv]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        return err

    assert "7 test classes are no synsets of ImageNet-1k (c0, c1, c2, c3, c4, ...)" in refused("--real")
    assert "no such folder" in refused("--test", str(tmp_path / "absent"))
    assert f"--transfer {some_classes}: no folder" in refused("--transfer", str(some_classes))
    assert f"two sets are called {images.name}" in refused("--transfer", str(images), str(images))
    assert eval_linear.main(["--run", str(run), "--retrieval", str(images), "--test", str(some_classes)]) == 2
    assert "--test is the probe's" in capsys.readouterr().err
