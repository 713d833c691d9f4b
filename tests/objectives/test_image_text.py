"""Image and text: what the two towers give, the learned scale, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.captions import encode
from losses import NPairs, SigLIP
from models import Bytes, Projection, TextTransformer
from objectives import Batch, ImageText, Step

TOKENIZER = Bytes(16)
CAPTIONS = ["a cat", "a dog", "a cat", "two birds"]


class Trunk:
    """(n, 3, 4, 4) -> (n, 8)."""

    def build(self) -> tuple[nn.Module, int]:
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), 8


def objective(loss: Any = None, **fields: Any) -> ImageText:
    torch.manual_seed(0)
    parts = {
        "encoder": Trunk(),
        "text": TextTransformer(TOKENIZER, 8, 1, 2),
        "head": Projection(6),
        "text_head": Projection(6),
        "loss": loss or NPairs(0.1),
    }
    return ImageText(**parts | fields)


def batch(captions: list[str] = CAPTIONS) -> Batch:
    images = torch.randn(len(captions), 3, 4, 4, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(len(captions))
    return Batch((images,), rows, torch.zeros_like(rows), encode(TOKENIZER, captions))


def total(terms: dict[str, Tensor]) -> float:
    return float(sum(terms.values()).detach())


def test_the_loss_is_that_of_the_two_embeddings() -> None:
    model = objective()
    rows = batch()
    terms, z = Step(model)(rows, 0.0)
    a, b = model.encode_image(rows.views[0]), model.encode_text(rows.text.tokens)
    assert torch.equal(z["image"], a)
    assert torch.equal(z["text"], b)
    expected = NPairs(0.1)(a, b, groups=torch.tensor([0, 1, 0, 2]))
    assert total(terms) == pytest.approx(total(expected), rel=1e-6)


def test_equal_captions_are_no_negatives_of_each_other() -> None:
    """SigLIP: with the identity as target, two rows that say the same would be pushed apart."""
    model = objective(SigLIP(initial_bias=0.0))
    terms, z = Step(model)(batch(), 0.0)
    identity = model.loss(z["image"], z["text"], model.log_scale.exp(), model.bias)
    assert abs(total(terms) - total(identity)) > 0.1
    different = batch(["a cat", "a dog", "a cow", "two birds"])
    terms, z = Step(model)(different, 0.0)
    assert total(terms) == pytest.approx(total(model.loss(z["image"], z["text"])), rel=1e-6)


def test_in_clip_equal_captions_with_equal_embeddings_make_no_difference() -> None:
    """Their columns are the same, so the softmax cannot tell them apart whatever the target says; with dropout in the
    text tower, or with captions that were cut, it can."""
    model = objective()
    terms, z = Step(model)(batch(), 0.0)
    assert total(terms) == pytest.approx(total(model.loss(z["image"], z["text"])), rel=1e-6)
    z["text"][2] += 0.1 * z["text"][1]
    assert total(model.terms(z, 0.0)) != pytest.approx(total(model.loss(z["image"], z["text"])), rel=1e-3)


def test_the_scale_starts_at_the_loss_is_learned_and_stays_within_1_and_100() -> None:
    model = objective(NPairs(0.07))
    assert model.watched()["scale"].item() == pytest.approx(1 / 0.07)
    sum(Step(model)(batch(), 0.0)[0].values()).backward()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.item() != 0
    for value, kept in ((math.log(1000), 100), (-1.0, 1), (math.log(50), 50)):
        model.log_scale.data.fill_(value)
        model.after_step({}, 0.0)
        assert model.watched()["scale"].item() == pytest.approx(kept, rel=1e-5)
    fixed = objective(learn_scale=False)
    sum(Step(fixed)(batch(), 0.0)[0].values()).backward()
    assert fixed.log_scale.grad is None


def test_siglip_learns_a_bias_too() -> None:
    model = objective(SigLIP())
    watched = model.watched()
    assert (watched["scale"].item(), watched["bias"].item()) == (pytest.approx(10), -10)
    terms, z = Step(model)(batch(), 0.0)
    sum(terms.values()).backward()
    assert model.bias.grad.item() != 0
    expected = SigLIP()(z["image"], z["text"], groups=torch.tensor([0, 1, 0, 2]))
    assert total(terms) == pytest.approx(total(expected), rel=1e-6)


@pytest.mark.parametrize("loss", [NPairs(0.1), SigLIP()])
def test_the_lines_to_hold_a_curve_against_follow_the_scale(loss: Any) -> None:
    model = objective(loss)
    before = model.sanity(64)
    model.log_scale.data.fill_(math.log(50))
    after = model.sanity(64)
    assert after.perfect < before.perfect
    same = torch.ones(64, 6)
    collapsed = model.loss(same, same, model.log_scale.exp(), *((model.bias,) if model.bias is not None else ()))
    assert total(collapsed) == pytest.approx(after.collapsed, rel=1e-5)


def test_everything_is_in_one_state_dict() -> None:
    model, other = objective(SigLIP()), objective(SigLIP())
    for p in model.parameters():
        p.data.add_(0.1)
    other.load_state_dict(model.state_dict())
    assert {"log_scale", "bias"} <= model.state_dict().keys()
    assert total(Step(other)(batch(), 0.0)[0]) == total(Step(model)(batch(), 0.0)[0])


def test_half_precision_reaches_the_loss_as_float32_and_groups_as_they_are() -> None:
    model = objective()
    _, z = Step(model, "bf16")(batch(), 0.0)
    assert (z["image"].dtype, z["text"].dtype, z["group"].dtype) == (torch.float32, torch.float32, torch.int64)
    assert torch.equal(z["group"], batch().text.group)


def test_without_heads_the_towers_are_the_embedding() -> None:
    model = objective(head=None, text_head=None)
    assert model.encode_image(batch().views[0]).shape == model.encode_text(batch().text.tokens).shape == (4, 8)
    assert model.trunks() == [model.encoder, model.text]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="images end in 6 features, captions in 7"):
        objective(text_head=Projection(7))
    with pytest.raises(ValueError, match="not 1 views without captions"):
        objective().embed(batch()._replace(text=None), 0.0)
    with pytest.raises(ValueError, match="not 2 views with captions"):
        objective().embed(batch()._replace(views=batch().views * 2), 0.0)
