import json
import os
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from augmentations import Center
from data import BadImage, ImageFolder
from evaluation import feature_cache, features
from evaluation.feature_cache import digest_of
from evaluation.features import Extractor, Pixels
from evaluation.fingerprint import fingerprint
from evaluation.subset import Balanced
from parallel import World
from training import stop

ALONE = World(0, 1, torch.device("cpu"))
VIEW = Center(resize=None, size=8)
NUM = 13


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(features, "ROWS", 5)


@pytest.fixture
def root(tmp_path):
    """Returns a folder of 13 images in two classes, all different."""
    rng = np.random.default_rng(0)
    for number in range(NUM):
        path = tmp_path / "images" / "train" / "ab"[number > 6] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "features"


def opened(root):
    """Returns the set, and the list to which each image that is decoded is added."""
    images, read = ImageFolder().open(root, "train"), []
    original = images.image
    images.image = lambda index: (read.append(index), original(index))[1]
    return images, read


def extract(encoder, root, folder, view=VIEW):
    """Returns (features, how many images were decoded for them)."""
    images, read = opened(root)
    found, _ = Extractor({"it": encoder}, view, ALONE, batch_size=4, folder=folder)(images)
    return found["it"], len(read)


def test_what_is_kept_is_taken_and_is_the_same_to_the_bit(encoder, root, kept):
    plain, _ = extract(encoder, root, None)
    for expected in (NUM, 0):
        rows, read = extract(encoder, root, kept)
        assert read == expected
        assert torch.equal(rows, plain)
        assert rows.dtype == torch.float16
    (about, file) = sorted(kept.glob("*/*"))  # neither parts nor temporary files
    assert torch.equal(torch.from_numpy(np.load(file)), plain)
    assert json.loads(about.read_text())["view"] == repr(VIEW)
    rows[0] = 7  # in memory alone
    assert torch.equal(extract(encoder, root, kept)[0], plain)


def test_only_what_is_missing_is_computed(encoder, root, kept):
    extract(encoder, root, kept)
    images, read = opened(root)
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    found, _ = Extractor({"it": encoder, "pixels": Pixels(2)}, VIEW, ALONE, folder=kept)(images)
    assert (calls, len(read)) == ([], NUM)
    assert list(found) == ["it", "pixels"]


def grown(root):
    shutil.copy(root / "train" / "a" / "00.png", root / "train" / "a" / "new.png")


def renamed(root):
    (root / "train" / "a" / "00.png").rename(root / "train" / "a" / "other.png")


def moved(root):
    (root / "train" / "a" / "06.png").rename(root / "train" / "b" / "06.png")  # the same place, another class


def rewritten(root):
    path = root / "train" / "b" / "12.png"
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [grown, renamed, moved, rewritten])
def test_images_that_changed_are_looked_at_again(encoder, root, kept, change):
    extract(encoder, root, kept)
    change(root)
    plain, num = extract(encoder, root, None)
    rows, read = extract(encoder, root, kept)
    assert read == num
    assert torch.equal(rows, plain)


def test_another_encoder_view_or_version_is_another_set_of_features(encoder, root, kept, monkeypatch):
    extract(encoder, root, kept)
    with torch.no_grad():
        encoder[0].weight.view(-1)[-1] += 1e-6
    assert extract(encoder, root, kept)[1] == NUM
    assert extract(encoder, root, kept, Center(resize=None, size=7))[1] == NUM
    encoder[1].num_batches_tracked += 1
    assert extract(encoder, root, kept)[1] == NUM
    assert extract(encoder, root, kept)[1] == 0
    version = feature_cache.metadata.version
    monkeypatch.setattr(feature_cache.metadata, "version", lambda name: version(name) + "x" * (name == "pillow"))
    assert extract(encoder, root, kept)[1] == NUM


def test_the_same_images_elsewhere_are_the_same(encoder, root, kept, tmp_path):
    extract(encoder, root, kept)
    shutil.copytree(root, tmp_path / "copy")  # with the files' times, as rsync -a and tar
    assert extract(encoder, tmp_path / "copy", kept)[1] == 0


def test_networks_that_only_tensors_cannot_tell_apart():
    def vit(heads):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=heads)

    assert digest_of(vit(2)) == digest_of(vit(2).train())
    assert digest_of(vit(2)) != digest_of(vit(3))
    assert digest_of(nn.Conv2d(3, 4, 3, padding=1)) != digest_of(nn.Conv2d(3, 4, 3, padding=2))
    assert digest_of(Pixels(2)) != digest_of(Pixels(3))


def test_images_in_memory_are_told_by_their_pixels(colours):
    images = colours(9, noise=10)
    before = fingerprint(images, ALONE)
    assert fingerprint(colours(9, noise=10), ALONE) == before
    images.array[8, 3, 3, 1] ^= 1
    assert fingerprint(images, ALONE) != before
    parts = [Balanced(percent).take(colours(60, noise=10)) for percent in (10, 50)]
    assert len({fingerprint(part, ALONE) for part in parts}) == 2


def test_a_killed_extraction_goes_on(encoder, root, kept):
    """The first ten of 13 images are done, in two parts of which one is damaged then."""
    plain, _ = extract(encoder, root, None)
    path = root / "train" / "b" / "12.png"
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk's error, not another image
    with pytest.raises(BadImage, match=r"12\.png"):
        extract(encoder, root, kept)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    parts = sorted(kept.glob("*/part-*"))
    assert [part.name[:15] for part in parts] == ["part-0000000000", "part-0000000005"]
    damage(parts[1])
    rows, read = extract(encoder, root, kept)
    assert read == 8
    assert torch.equal(rows, plain)
    assert not list(kept.glob("*/part-*"))


def test_a_stopped_extraction_goes_on(encoder, root, kept, monkeypatch):
    asked = iter(range(1000))
    monkeypatch.setattr(stop, "pending", lambda: "SIGTERM" if next(asked) == 4 else None)
    with pytest.raises(stop.Stopped):
        extract(encoder, root, kept)  # in the third block of five
    monkeypatch.undo()
    monkeypatch.setattr(features, "ROWS", 5)
    rows, read = extract(encoder, root, kept)
    assert read == NUM - 10
    assert torch.equal(rows, extract(encoder, root, None)[0])


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [damage, cut])
def test_a_file_that_is_not_what_its_name_says_is_not_taken(encoder, root, kept, spoil):
    plain, _ = extract(encoder, root, kept)
    plain = plain.clone()
    spoil(next(kept.glob("*/features-*")))
    rows, read = extract(encoder, root, kept)
    assert read == NUM
    assert torch.equal(rows, plain)


def test_two_writers_do_not_disturb_each_other(encoder, root, kept, monkeypatch):
    """Another process does all of the same while this one is about to make one file of its parts."""
    plain, _ = extract(encoder, root, None)
    finish, other = feature_cache.FeatureCache.finish, []

    def late(self, starts):
        if not other:
            other.append(1)
            assert extract(encoder, root, kept)[1] == 0  # it finds all parts
        return finish(self, starts)

    monkeypatch.setattr(feature_cache.FeatureCache, "finish", late)
    rows, read = extract(encoder, root, kept)
    assert (read, other) == (NUM, [1])
    assert torch.equal(rows, plain)
    assert len(list(kept.glob("*/*"))) == 2


def test_a_folder_that_cannot_be_written_is_named(encoder, root, kept):
    kept.write_text("a file")
    with pytest.raises(ValueError, match=r"--features \S*/features cannot be written: Not a directory"):
        extract(encoder, root, kept)
