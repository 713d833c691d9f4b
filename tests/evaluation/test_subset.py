import json
from pathlib import Path

import numpy as np
import pytest

import eval_linear
from data import ImageFolder
from data.sets import Pixels
from evaluation import subset
from evaluation.flags import Images
from evaluation.subset import Balanced, Listed, digest, subset_of

FAST = ["--workers", "0", "--device", "cpu", "--epochs", "2", "--knn-k", "3"]


def labelled(*counts: int) -> Pixels:
    """Returns a set with so many images of each class, in a mixed order."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    classes = tuple(f"c{label}" for label in range(len(counts)))
    return Pixels(Path("made"), classes, np.arange(len(labels) * 3, dtype=np.uint8).reshape(-1, 1, 1, 3), labels)


def counts_of(images) -> list[int]:
    return np.bincount(images.labels, minlength=len(images.classes)).tolist()


def test_a_balanced_part_has_as_many_of_every_class():
    images = labelled(200, 150, 251)
    taken = Balanced(10).take(images)
    assert counts_of(taken) == [20, 20, 20]
    assert (np.diff(taken.rows) > 0).all()
    assert counts_of(Balanced(1).take(images)) == [2, 2, 2]
    assert set(Balanced(1).take(images).rows) < set(taken.rows)
    # what a small class cannot give, the others do; no class is left out
    assert counts_of(Balanced(10).take(labelled(300, 4, 196))) == [23, 4, 23]
    assert counts_of(Balanced(1).take(labelled(30, 30, 5))) == [1, 1, 1]
    assert sorted(counts_of(Balanced(10).take(labelled(99, 101, 210)))) == [13, 14, 14]


def test_the_images_of_a_balanced_part_are_taken_at_random_but_always_the_same():
    images = labelled(200, 200)
    rows = Balanced(1).take(images).rows
    assert rows.tolist() == Balanced(1).take(labelled(200, 200)).rows.tolist() == [193, 199, 248, 272]
    of_first = np.flatnonzero(images.labels == 0)
    assert set(rows[images.labels[rows] == 0]) != set(of_first[:2])


def test_a_part_is_an_image_set():
    images = labelled(5, 5)
    taken = subset.Subset(images, np.array([3, 7]))
    assert len(taken) == 2
    assert (taken.classes, taken.labels.tolist()) == (images.classes, images.labels[[3, 7]].tolist())
    assert taken.name(1) == images.name(7)
    assert np.asarray(taken.image(1)).tolist() == images.array[7].tolist()
    assert taken.pixels(0).flatten().tolist() == images.array[3].flatten().tolist()


@pytest.fixture
def names(tmp_path):
    """Writes a list of names; returns which part of the training images it means."""

    def write(*lines: str, percent: str | None = None) -> Listed:
        file = tmp_path / "names.txt"
        file.write_text("\n".join(lines) + "\n")
        found = subset_of(Images(subset=percent, subset_file=file))
        assert isinstance(found, Listed)
        return found

    return write


def test_listed_images_are_found_by_name(images, names):
    train = ImageFolder().open(images, "train")
    listed = names(*(f"c{label}/{i}.png" for label in range(7) for i in (5, 2)), "")
    taken = listed.take(train)
    assert counts_of(taken) == [2] * 7
    assert [Path(taken.name(i)).name for i in range(4)] == ["2.png", "5.png", "2.png", "5.png"]
    assert listed.id == f"list-{listed.sha256[:8]}"
    other_suffix = names(*(f"c{label}/{i}.JPEG" for label in range(7) for i in (5, 2)))
    assert other_suffix.take(train).rows.tolist() == taken.rows.tolist()


def test_the_digest_is_of_the_names_whatever_their_order(names):
    assert names("b.JPEG", "a.JPEG\r").sha256 == names("a.JPEG", "b.JPEG", "").sha256 == digest(["a.JPEG", "b.JPEG"])
    assert names("a.JPEG").sha256 != digest(["a.JPEG", "b.JPEG"])


def test_a_published_list_is_called_by_its_name_and_no_other_is(names, monkeypatch):
    monkeypatch.setitem(subset.SIMCLR, digest(["a.JPEG", "b.JPEG"]), 10)
    assert names("b.JPEG", "a.JPEG").id == "10pct-simclr"
    assert names("b.JPEG", "a.JPEG", percent="10%").id == "10pct-simclr"
    with pytest.raises(ValueError, match=r"--subset 1%: .* is SimCLR's list of 10 %"):
        names("b.JPEG", "a.JPEG", percent="1%")
    with pytest.raises(ValueError, match=r"is not SimCLR's list of 10 %.* leave --subset out"):
        names("a.JPEG", percent="10%")


def test_a_list_that_does_not_fit_is_refused(images, names, tmp_path):
    train = ImageFolder().open(images, "train")
    whole = [f"c{label}/0.png" for label in range(7)]
    for lines, message in (
        ([*whole, "c0/9.png", "x.png"], r"2 of the 9 lines in .*names.txt name no image of train \(c0/9.png, x.png\)"),
        (["0.png"], r"1 of the 1 lines in .* name more than one image \(0.png\): write CLASS/NAME"),
        ([*whole, "c3/0.png"], "1 of the 8 lines in .* name an image that an earlier one names"),
        (whole[:5], r"names no image of 2 classes \(c5, c6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            names(*lines).take(train)
    with pytest.raises(ValueError, match="names no image: it should hold a file name a line"):
        names("", "")
    with pytest.raises(ValueError, match="No such file"):
        subset_of(Images(subset_file=tmp_path / "absent.txt"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a text file"):
        subset_of(Images(subset_file=tmp_path / "binary"))


def test_the_part_is_in_every_name(run, tmp_path):
    assert eval_linear.main(["--run", str(run), *FAST, "--subset", "10%", "--protocol", "bt-100ep"]) == 0
    result = json.loads((run / "eval" / "bt-2ep-10pct-balanced.json").read_text())
    assert {name.split("/")[0] for name in result["rows"][0]["metrics"]} == {
        "linear-bt-2ep-10pct-balanced",
        "knn-k3-T0.07-10pct-balanced",
    }
    assert result["protocol"]["id"] == "bt-2ep-10pct-balanced"
    assert (result["num_train"], result["num_test"], result["subset"]["num_images"]) == (7, 21, 7)

    (tmp_path / "list.txt").write_text("\n".join(f"c{label}/{i}.png" for label in range(7) for i in range(2)))
    assert eval_linear.main(["--run", str(run), *FAST, "--subset-file", str(tmp_path / "list.txt")]) == 0
    (file,) = (run / "eval").glob("cached-2ep-list-*.json")
    result = json.loads(file.read_text())
    assert result["num_train"] == 14
    assert result["subset"]["id"] == file.stem.removeprefix("cached-2ep-")


def test_a_part_without_a_probe_is_refused(run, capsys):
    assert eval_linear.main(["--run", str(run), "--retrieval", str(run), "--subset", "1%"]) == 2
    assert "--subset is the probe's" in capsys.readouterr().err
