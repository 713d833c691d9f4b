import csv
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diagnostics.embedding_stats import feature_std, rankme
from diagnostics.heatmap import montage
from diagnostics.pair_heatmap import pair_heatmap_png
from diagnostics.pair_probe import diagnose_pairs, pairs_collapse_warning
from diagnostics.pair_stats import hardest_pairs, modality_gap, pair_statistics
from diagnostics.probe import Probe
from losses.matrices import cosine_similarity, cross_correlation
from losses.sanity import Sanity
from objectives.base import Batch, Text

N, D = 24, 40
CAPTIONS = [f"a picture of thing {i}" for i in range(N)]
THUMBNAILS = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 3, 8, 8)
LABELS = torch.tensor([i % 3 for i in range(N)])
ORDER = torch.tensor([i for label in range(3) for i in range(N) if i % 3 == label])


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(N, D, generator=generator)
    return image, image + torch.randn(N, D, generator=generator)


def lines_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_two_matrices_and_a_labelled_picture_are_drawn(
    pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    group = torch.arange(N)
    _, pictures, _ = diagnose_pairs(*pairs, group, 100, tmp_path, None, CAPTIONS, THUMBNAILS)
    assert pictures == {
        name: tmp_path / name / "step_0000100.png"
        for name in ("image_text", "cross_correlation", "image_text_labelled")
    }
    for name, matrix in [("image_text", cosine_similarity(*pairs)), ("cross_correlation", cross_correlation(*pairs))]:
        np.testing.assert_array_equal(np.load(pictures[name].with_suffix(".npy")), matrix.half().numpy())
    titles = []
    for name, mode in [("image_text", "P"), ("image_text_labelled", "RGB")]:
        with Image.open(pictures[name]) as image:
            assert image.mode == mode
            titles.append(image.info["Title"])
    assert titles[0] == titles[1]
    found = pair_statistics(cosine_similarity(*pairs), group)
    assert titles[0].startswith("Image-description similarity\nstep 100 · top-1 image to text ")
    assert f"text to image {100 * found['text_to_image_top1']:.1f} %" in titles[0]
    matrix = cosine_similarity(*pairs)
    lines, hardest = titles[0].split("\n"), hardest_pairs(matrix, group)
    with TemporaryDirectory() as other:
        by_hand = Path(other) / "p.png"
        pair_heatmap_png(matrix, by_hand, lines, CAPTIONS, THUMBNAILS, group, hardest)
        assert by_hand.read_bytes() == pictures["image_text_labelled"].read_bytes()
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    step = "step_0000100"
    assert files == [
        *(f"cross_correlation/{step}.{ending}" for ending in ("npy", "png")),
        *(f"image_text/{step}.{ending}" for ending in ("csv", "npy", "png")),
        f"image_text_labelled/{step}.png",
    ]


def test_without_labels_for_them_pairs_are_not_labelled(
    pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    for more in [{}, {"captions": CAPTIONS}, {"thumbnails": THUMBNAILS}]:
        _, pictures, tables = diagnose_pairs(*pairs, torch.arange(N), 1, tmp_path, **more)
        assert set(pictures) == {"image_text", "cross_correlation"}
        assert ("image_caption" in tables["image_text_hardest"].columns) == ("captions" in more)
    assert not (tmp_path / "image_text_labelled").exists()


def test_numbers_are_those_of_the_functions(pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    group = torch.arange(N) // 2
    numbers, _, _ = diagnose_pairs(*pairs, group, 1, tmp_path)
    assert all(type(value) is float for value in numbers.values())
    expected = pair_statistics(cosine_similarity(*pairs), group) | {"modality_gap": modality_gap(*pairs)}
    for name, value in expected.items():
        assert numbers.pop(f"probe/image_text/{name}") == pytest.approx(value)
    for side, z in zip(("image", "text"), pairs, strict=True):
        assert numbers.pop(f"probe/{side}/rankme") == pytest.approx(rankme(z))
        assert numbers.pop(f"probe/{side}/feature_std") == pytest.approx(feature_std(z)[0])
    shared = ("rankme", "feature_std", "feature_std_min", "alignment", "uniformity")
    features = ("diagonal", "off_diagonal", "off_diagonal_max", "top1")
    assert set(numbers) == {f"probe/{name}" for name in shared} | {
        f"probe/cross_correlation/{name}" for name in features
    }


def test_rows_are_ordered_by_class_with_their_captions_images_and_groups(
    pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    group = torch.arange(N)
    group[3] = group[0]  # of one class
    plain, _, _ = diagnose_pairs(*pairs, group, 1, tmp_path / "plain", None, CAPTIONS, THUMBNAILS)
    ordered, pictures, tables = diagnose_pairs(*pairs, group, 1, tmp_path / "ordered", LABELS, CAPTIONS, THUMBNAILS)
    assert ordered == pytest.approx(plain, rel=1e-5)
    rows = [part[ORDER] for part in pairs]
    matrix = cosine_similarity(*rows)
    np.testing.assert_allclose(np.load(pictures["image_text"].with_suffix(".npy")), matrix.half().numpy(), atol=1e-3)
    captions = [CAPTIONS[i] for i in ORDER.tolist()]
    hardest = hardest_pairs(matrix, group[ORDER])
    assert [row[:4] for row in tables["image_text_hardest"].rows] == [
        (i, captions[i], j, captions[j]) for i, j, _, _ in hardest
    ]
    by_hand = tmp_path / "by_hand"
    diagnose_pairs(*rows, group[ORDER], 1, by_hand, None, captions, THUMBNAILS[ORDER])
    pixels = []
    for path in (pictures["image_text_labelled"], by_hand / "image_text_labelled" / "step_0000001.png"):
        with Image.open(path) as image:
            assert ("ordered by class" in image.info["Title"]) == (path.parents[1] != by_hand)
            pixels.append(np.array(image)[40:])  # below the heading
    np.testing.assert_array_equal(*pixels)


def test_one_class_is_no_order(pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    _, pictures, _ = diagnose_pairs(*pairs, torch.arange(N), 1, tmp_path, torch.zeros(N, dtype=torch.int64))
    with Image.open(pictures["image_text"]) as image:
        assert "ordered" not in image.info["Title"]


def test_the_hardest_pairs_are_kept_beside_the_picture(
    pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    _, pictures, tables = diagnose_pairs(*pairs, torch.arange(N), 7, tmp_path, None, CAPTIONS, THUMBNAILS)
    table = tables["image_text_hardest"]
    matrix = cosine_similarity(*pairs)
    image, _, description, caption, similarity, right = table.rows[0]
    off = matrix.clone().fill_diagonal_(-2)
    assert (image, description) == divmod(int(off.argmax()), N)
    assert caption == CAPTIONS[int(description)]
    assert similarity == pytest.approx(float(off.max()))
    assert right == pytest.approx(float(matrix[image, image]))
    lines = lines_of(pictures["image_text"].with_suffix(".csv"))
    assert tuple(lines[0]) == table.columns
    assert [[int(line[0]), line[1], int(line[2]), line[3]] for line in lines[1:]] == [list(r[:4]) for r in table.rows]
    assert [float(line[4]) for line in lines[1:]] == pytest.approx([row[4] for row in table.rows], rel=1e-5)


def test_the_course_of_a_run_is_a_montage_of_the_plain_matrices(
    pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    paths = [diagnose_pairs(*pairs, torch.arange(N), step, tmp_path)[1]["image_text"] for step in (0, 50, 100)]
    assert sorted((tmp_path / "image_text").glob("step_*.png")) == paths
    montage(paths, tmp_path / "image_text.png", ["start", "middle", "end"])
    with Image.open(tmp_path / "image_text.png") as image:
        assert image.info["Title"].split("\n") == ["Image-description similarity", "start", "middle", "end"]


@pytest.mark.parametrize("broken", ["image", "text", "both"])
def test_embeddings_that_are_not_finite_are_shown_and_stop_nothing(
    broken: str, pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    image, text = (part.clone() for part in pairs)
    if broken != "text":
        image[3] = torch.nan
    if broken != "image":
        text[5, 0] = torch.inf
    numbers, pictures, _ = diagnose_pairs(image, text, torch.arange(N), 1, tmp_path, LABELS, CAPTIONS, THUMBNAILS)
    assert math.isnan(numbers["probe/image_text/diagonal"])
    assert numbers["probe/image_text/image_to_text_top1"] < 1
    assert all(path.is_file() for path in pictures.values())
    warning = pairs_collapse_warning(numbers, torch.arange(N), D, 1, None, None)
    assert warning is not None
    assert f"of the {'image' if broken != 'text' else 'text'} embeddings" in warning


def test_two_pairs_are_enough(tmp_path: Path) -> None:
    image, text = torch.randn(2, 2, D)
    group = torch.zeros(2, dtype=torch.int64)  # and equal
    numbers, _, tables = diagnose_pairs(image, text, group, 1, tmp_path, [0, 1], CAPTIONS[:2], THUMBNAILS[:2])
    assert numbers["probe/image_text/off_diagonal"] == 0
    assert tables["image_text_hardest"].rows == []


def test_what_does_not_fit_together_is_refused(pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 labels for 24"):
        diagnose_pairs(*pairs, torch.arange(N), 1, tmp_path, [0, 1, 2])
    with pytest.raises(ValueError, match="same shape"):
        diagnose_pairs(pairs[0], pairs[1][:5], torch.arange(N), 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def collapsed_side(side: str, pairs: tuple[torch.Tensor, torch.Tensor], folder: Path) -> dict[str, float]:
    image, text = pairs
    point = torch.ones(N, D) + 0.001 * image
    return diagnose_pairs(*((point, text) if side == "image" else (image, point)), torch.arange(N), 1, folder)[0]


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_collapse_of_one_side_alone_is_seen(
    side: str, pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    numbers = collapsed_side(side, pairs, tmp_path)
    assert numbers["probe/feature_std"] > 0.3, "the mean of both would not warn"
    warning = pairs_collapse_warning(numbers, torch.arange(N), D, 100, None, None)
    assert warning is not None
    assert warning.startswith("collapse at step 100: feature std is 0.0")
    assert warning.endswith(f"; of the {side} embeddings")
    assert pairs_collapse_warning(numbers, torch.arange(N), D, 0, None, None) is None


def test_healthy_embeddings_and_a_probe_with_hardly_any_descriptions_warn_of_nothing(
    pairs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    numbers, _, _ = diagnose_pairs(*pairs, torch.arange(N), 1, tmp_path)
    assert pairs_collapse_warning(numbers, torch.arange(N), D, 100, None, None) is None
    equal = torch.ones(N, D)
    numbers, _, _ = diagnose_pairs(pairs[0], equal, torch.zeros(N), 1, tmp_path)
    assert pairs_collapse_warning(numbers, torch.zeros(N), D, 100, None, None) is None
    assert pairs_collapse_warning(numbers, torch.arange(N), D, 100, None, None) is not None


class Towers(nn.Module):
    """As much of an image-text objective as the probe uses: images are their pixels, words are vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(N, 12)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.seen: list[Any] = []

    def embed(self, batch: Any, progress: float) -> dict[str, torch.Tensor]:
        self.seen.append((self.training, torch.is_grad_enabled(), progress, batch))
        text = self.words(batch.text.tokens).mean(dim=1)
        return {"image": batch.views[0].flatten(1), "text": text, "group": batch.text.group}

    def sanity(self, num_rows: int) -> Sanity:
        return Sanity(num_rows, 0.5, -float(self.log_scale.detach().exp()))


def batch_of(num: int) -> Batch:
    tokens = torch.arange(num)[:, None].expand(num, 5)
    views = (torch.randn(num, 3, 2, 2),)
    return Batch(views, torch.arange(num), torch.arange(num) % 3, Text(tokens, torch.arange(num)))


def test_the_probe_looks_at_pairs(tmp_path: Path) -> None:
    towers, batch = Towers().double(), batch_of(N)
    probe = Probe(towers, batch, tmp_path, 64, CAPTIONS, THUMBNAILS)
    looked = probe.look(100, 0.5, None)
    ((training, with_gradient, progress, seen),) = towers.seen
    assert (training, with_gradient, progress) == (False, False, 0.5)
    assert towers.training
    assert seen.views[0].dtype == torch.float64
    assert seen.text is batch.text, "tokens stay integers"
    assert looked.warning is None
    assert set(looked.pictures) == {"image_text", "image_text_labelled", "cross_correlation"}
    assert len(looked.tables["image_text_hardest"].rows) == 8
    assert looked.numbers["probe/image_text/scale"] == pytest.approx(10)
    image, text = batch.views[0].flatten(1), towers.words.weight.detach().float()
    expected, _, _ = diagnose_pairs(image, text, torch.arange(N), 1, tmp_path / "again", batch.label)
    assert {name: looked.numbers[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_sanity_lines_follow_the_learned_scale(tmp_path: Path) -> None:
    towers = Towers()
    probe = Probe(towers, batch_of(N), tmp_path, 64)
    assert probe.look(1, 0.1, None).numbers["sanity/perfect"] == pytest.approx(-10)
    with torch.no_grad():
        towers.log_scale.fill_(math.log(20))
    numbers = probe.look(2, 0.2, None).numbers
    assert numbers["sanity/perfect"] == pytest.approx(-20)
    assert numbers["sanity/collapsed"] == 64
    assert numbers["probe/image_text/scale"] == pytest.approx(20)


def test_a_probe_with_other_labels_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 captions for 24"):
        Probe(Towers(), batch_of(N), tmp_path, 64, CAPTIONS[:2], THUMBNAILS)
    with pytest.raises(ValueError, match=r"\(5, 3, 8, 8\)"):
        Probe(Towers(), batch_of(N), tmp_path, 64, CAPTIONS, THUMBNAILS[:5])


class Views(nn.Module):
    """As much of an objective of two views."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 12)

    def embed(self, batch: Any, progress: float) -> dict[str, torch.Tensor]:
        return {name: self.head(view.flatten(1)) for name, view in zip("ab", batch.views, strict=True)}

    def sanity(self, num_rows: int) -> None:
        return None


def test_the_probe_of_an_image_only_run_is_as_before(tmp_path: Path) -> None:
    view = torch.randn(N, 3, 2, 2)
    batch = Batch((view, view + 0.1 * torch.randn(N, 3, 2, 2)), torch.arange(N), torch.arange(N) % 3)
    looked = Probe(Views(), batch, tmp_path, 64).look(100, 0.5, 1.0)
    assert set(looked.pictures) == {"cosine_similarity", "cross_correlation", "sample_correlation"}
    assert looked.tables == {}
    assert looked.warning is None
    assert "probe/top1" in looked.numbers
    assert not any("image_text" in name or "sanity" in name for name in looked.numbers)
