import pytest
import torch
from torch.nn import functional as F

from evaluation.zero_shot import accuracy, chance, class_embeddings

# Unit vectors at these angles in the plane, so that cosines are known.
ANGLES = {"a cat": 0, "the cat": 60, "a dog": 90, "the dog": 150, "a cow": 270, "the cow": 270}


def embed(texts):
    """Returns each text's vector, of a length that must not matter."""
    angles = torch.tensor([float(ANGLES[text]) for text in texts]).deg2rad()
    lengths = torch.tensor([1.0 + 9 * text.startswith("the") for text in texts])
    return torch.stack([angles.cos(), angles.sin()], dim=1) * lengths[:, None]


def test_a_class_is_the_mean_direction_of_its_sentences():
    """Between unit vectors at 0 and 60 degrees lies 30, however long the embeddings were."""
    found = class_embeddings(embed, ["cat", "dog", "cow"], ["a {}", "the {}"])
    angles = torch.tensor([30.0, 120.0, 270.0]).deg2rad()
    torch.testing.assert_close(found, torch.stack([angles.cos(), angles.sin()], dim=1), atol=1e-6, rtol=0)


def test_a_case_by_hand():
    """Images at 40, 100, 280 and 190 degrees, called cat, cat, cow and dog: the second is nearer to dog, at 120."""
    classes = class_embeddings(embed, ["cat", "dog", "cow"], ["a {}", "the {}"])
    angles = torch.tensor([40.0, 100.0, 280.0, 190.0]).deg2rad()
    images = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    found = accuracy(images, torch.tensor([0, 0, 2, 1]), classes, num_templates=2)
    assert found == {"zero-shot-2templates/top1": 75}
    assert chance(3, 2) == {"zero-shot-2templates/top1": pytest.approx(100 / 3)}


def test_top1_and_top5_by_topk(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, classes = torch.randn(200, 6, generator=generator), torch.randn(20, 6, generator=generator)
    labels = torch.randint(20, (200,), generator=generator)
    found = accuracy(features, labels, classes, 80)
    top = (F.normalize(features) @ F.normalize(classes).T).topk(5, dim=1).indices == labels[:, None]
    expected = {"top1": 100 * top[:, 0].double().mean().item(), "top5": 100 * top.any(dim=1).double().mean().item()}
    assert found == pytest.approx({f"zero-shot-80templates/{name}": value for name, value in expected.items()})
    monkeypatch.setattr("evaluation.zero_shot.CHUNK", 50)
    assert accuracy(features, labels, classes, 80) == pytest.approx(found)


def test_classes_that_collapsed_score_what_guessing_scores():
    features, labels = (
        torch.randn(30, 4, generator=torch.Generator().manual_seed(0)),
        torch.zeros(30, dtype=torch.int64),
    )
    classes = torch.full((20, 4), 0.3)  # class 0 is first: whoever takes the first of equals would score 100 %
    assert accuracy(features, labels, classes, 7) == pytest.approx(chance(20, 7))
    assert chance(20, 7) == {"zero-shot-7templates/top1": 5, "zero-shot-7templates/top5": 25}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 3])}, "labels from 0 to 3 do not fit 3 classes"),
        ({"labels": torch.tensor([-1, 1])}, "labels from -1"),
        ({"labels": torch.tensor([0])}, r"labels \(1,\)"),
        ({"classes": torch.ones(3, 5)}, r"class embeddings \(3, 5\)"),
        ({"features": torch.full((2, 2), torch.nan)}, "features are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    good = {"features": torch.ones(2, 2), "labels": torch.tensor([0, 1]), "classes": torch.ones(3, 2)}
    with pytest.raises(ValueError, match=message):
        accuracy(**{**good, **change}, num_templates=1)


def test_broken_text_embeddings_are_refused():
    with pytest.raises(ValueError, match="class names are not finite"):
        class_embeddings(lambda texts: torch.full((len(texts), 2), torch.nan), ["cat"], ["a {}"])
