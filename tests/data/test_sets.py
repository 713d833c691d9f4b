"""Image sets on disk: what is found, in which order, and what is refused with which words."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import Cifar10, ImageFolder, Shapes


def picture(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 12), (level, 0, 0)).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, name in enumerate(["dog/b.png", "dog/a.jpg", "cat/deep/er/z.png", "cat/é.png", "ant/1.PNG"]):
        picture(tmp_path / "train" / name, 40 * number)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_is_read_in_the_order_of_names(tree: Path) -> None:
    images = ImageFolder().open(tree, "train")
    assert images.classes == ("ant", "cat", "dog")
    assert images.labels.tolist() == [0, 1, 1, 2, 2]
    names = [str(Path(images.name(i)).relative_to(tree / "train")) for i in range(len(images))]
    assert names == ["ant/1.PNG", "cat/deep/er/z.png", "cat/é.png", "dog/a.jpg", "dog/b.png"]
    assert images.image(4).getpixel((0, 0)) == (0, 0, 0)
    assert images.image(0).getpixel((0, 0)) == (160, 0, 0)


def test_splits_have_the_names_a_recipe_gives_them(tree: Path) -> None:
    picture(tree / "holdout" / "ant" / "1.png")
    assert len(ImageFolder(test="holdout").open(tree, "test")) == 1
    with pytest.raises(ValueError, match=r"no folder .*val; .* holds holdout, train"):
        ImageFolder().open(tree, "test")


def refused(root: Path | None, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ImageFolder().open(root, "train")
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    refused(None, "--data is missing")
    refused(tmp_path / "nowhere", "no such folder")
    refused(tmp_path, "no folder")
    (tmp_path / "train").mkdir()
    refused(tmp_path, "is empty")
    picture(tmp_path / "train" / "1.png")
    refused(tmp_path, "is flat: 1 images.*folder named after its class")
    picture(tmp_path / "train" / "cat" / "1.png")
    (tmp_path / "train" / "dog").mkdir()
    refused(tmp_path, "class .*dog has no images")


def test_an_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "1.png", "train/cat/1.png")
    refused(tmp_path / "set.tar", "is an archive: unpack it first")


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """Files in the form that CIFAR-10 is published in: pickled dicts of rows of 3,072 bytes."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {"data": rng.integers(0, 255, (4, 3072), dtype=np.uint8), "labels": [3, 1, 0, 2]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c", "d"]}, protocol=2))
    return folder


def test_cifar_batches_equal_what_torchvision_reads(batches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    for split in ("train", "test"):
        theirs = CIFAR10(str(batches.parent), train=split == "train")
        for root in (batches, batches.parent):
            ours = Cifar10().open(root, split)  # ty: ignore
            assert len(ours) == len(theirs) == (20 if split == "train" else 4)
            for number in range(len(ours)):
                image, label = theirs[number]
                assert np.array_equal(np.asarray(ours.image(number)), np.asarray(image))
                assert ours.labels[number] == label


def test_a_cifar_batch_cannot_run_code(batches: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "touched",))

    (batches / "data_batch_2").write_bytes(pickle.dumps({"data": Hostile(), "labels": []}, protocol=2))
    with pytest.raises(ValueError, match=r"data_batch_2: not a CIFAR-10 batch"):
        Cifar10().open(batches, "train")
    assert not (tmp_path / "touched").exists()


def test_missing_cifar_files_are_named(batches: Path, tmp_path: Path) -> None:
    (batches / "data_batch_4").unlink()
    with pytest.raises(ValueError, match="data_batch_4 missing"):
        Cifar10().open(batches, "train")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="neither torchvision's batches"):
        Cifar10().open(tmp_path / "other", "train")


def test_shapes_need_no_files() -> None:
    train, test = Shapes(20, 10).open(None, "train"), Shapes(20, 10).open(None, "test")
    assert (len(train), len(test)) == (20, 10)
    assert train.classes == test.classes


def test_real_sets_have_the_sizes_they_are_known_by(real_data: Callable[[str], Path]) -> None:
    tiny = real_data("tiny64")
    train, test = ImageFolder().open(tiny, "train"), ImageFolder().open(tiny, "test")
    assert (len(train), len(test), len(train.classes)) == (2500, 500, 10)
    assert train.image(0).mode == "RGB"
    assert np.bincount(train.labels).tolist() == [250] * 10
