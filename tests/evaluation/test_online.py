"""The online probe: it learns from the features, shares its work over ranks, and nothing of the encoder moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import Center, normalize, render_center
from data.sets import Pixels
from evaluation import knn
from evaluation.online import Online
from parallel import World
from tests.ranks import run_ranks

ALONE = World(0, 1, torch.device("cpu"))
VIEW = Center(resize=None, size=12)


def watch(encoder: nn.Module, train: Pixels, test: Pixels, world: World = ALONE) -> Online:
    return Online(encoder, train, test, VIEW, world, 0, "fp32")


def views(images: Pixels, rows: range) -> Tensor:
    pixels = torch.stack([render_center(images.image(row), VIEW) for row in rows])
    return normalize(pixels, VIEW.mean, VIEW.std)


def train(online: Online, images: Pixels, steps: int, batch: int = 30) -> None:
    """Trains the head on two equal views of each batch."""
    for step in range(steps):
        rows = range(step * batch % len(images), step * batch % len(images) + batch)
        online.encoder.train()
        features = online.encoder(views(images, rows))
        online.update(torch.stack([features, features], dim=1), torch.as_tensor(images.labels[rows]))


def test_the_numbers_are_what_their_names_say(colours, encoder) -> None:
    train_set, test_set = colours(120, 12.0), colours(60, 12.0, seed=1)
    encoder[5].p = 0.0
    online = watch(encoder, train_set, test_set)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = online.evaluate()
    assert list(first) == ["online/knn-k20-T0.07/top1"]  # there is no head yet
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with torch.no_grad():
        bank, queries = (encoder.eval()(views(images, range(len(images)))) for images in (train_set, test_set))
    labels, answers = (torch.as_tensor(images.labels) for images in (train_set, test_set))
    known = knn.top1(bank, labels, queries, answers, 6, 20, 0.07, torch.device("cpu"))
    assert first["online/knn-k20-T0.07/top1"] == pytest.approx(known)
    assert known > 20

    train(online, train_set, 120)
    early = online.evaluate()["online/train_top1"]
    train(online, train_set, 40)
    late = online.evaluate()
    assert early < late["online/train_top1"]  # of the views since the last call only
    assert late["online/top1"] > 60  # chance is 17
    assert online.weight is not None
    features = encoder.eval()(views(test_set, range(60)))
    rows = F.normalize(features - features.mean(dim=1, keepdim=True))
    guess = (rows @ online.weight[:-1] + online.weight[-1]).argmax(dim=1)
    assert late["online/top1"] == pytest.approx(100 * (guess == answers).double().mean().item())


def test_its_step_is_that_of_autograd_and_torchs_sgd(colours, encoder) -> None:
    images = colours(60, 5.0)
    online, head = watch(encoder, images, images), nn.Linear(8, 6)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=2.0, momentum=0.9)
    for begin in (0, 20, 40):
        rows, y = range(begin, begin + 20), torch.as_tensor(images.labels[begin : begin + 20])
        features = encoder(views(images, rows)).detach()
        online.update(features[:, None], y)
        F.cross_entropy(head(F.normalize(features - features.mean(dim=1, keepdim=True))), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert online.weight is not None
    assert torch.allclose(online.weight[:-1], head.weight.T, atol=1e-5)
    assert torch.allclose(online.weight[-1], head.bias, atol=1e-5)


def test_no_gradient_reaches_the_encoder(colours, encoder) -> None:
    online = watch(encoder, colours(60, 5.0), colours(60, 5.0, seed=1))
    train(online, colours(60, 5.0), 2)  # features that carry a graph, which the objectives' do not
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert online.weight is not None
    assert bool(online.weight.any())


def test_it_goes_on_from_its_state_to_the_bit(colours, encoder) -> None:
    images, y = colours(60, 5.0), torch.arange(20) % 6
    parts = [encoder(views(images, range(begin, begin + 20)))[:, None] for begin in (0, 20, 40)]
    whole, first, second = (watch(encoder, images, images) for _ in range(3))
    for part in parts:
        whole.update(part, y)
    first.load_state_dict(second.state_dict())  # of one that has not seen anything
    for part in parts[:2]:
        first.update(part, y)
    second.load_state_dict(first.state_dict())
    second.update(parts[2], y)
    assert whole.weight is not None
    assert second.weight is not None
    assert torch.equal(whole.weight, second.weight)
    assert whole.evaluate() == second.evaluate()


def of_a_rank(world: World) -> tuple[dict[str, float], Tensor]:
    """Returns what a rank measures, and the head that it has trained."""
    rng = np.random.default_rng(0)
    sets = []
    for num in (61, 31):  # which two ranks cannot share evenly
        labels = np.arange(num) % 3
        pixels = (60 * labels[:, None, None, None] + rng.normal(60, 30, (num, 12, 12, 3))).clip(0, 255)
        sets.append(Pixels(Path("grey"), ("a", "b", "c"), pixels.astype(np.uint8), labels))
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 7)).double()
    online = Online(encoder, sets[0], sets[1], VIEW, world, 0, "fp64")
    for step in range(20):
        begin, share = step % 2 * 20, 20 // world.size
        rows = range(begin + world.rank * share, begin + (world.rank + 1) * share)
        features = encoder(views(sets[0], rows).double())
        online.update(features[:, None], torch.as_tensor(sets[0].labels[rows]))
    assert online.weight is not None
    return online.evaluate(), online.weight


def test_two_ranks_measure_and_learn_what_one_does() -> None:
    found, head = of_a_rank(ALONE)
    assert len(found) == 3
    for measured, weight in run_ranks(of_a_rank, 2):
        assert measured == pytest.approx(found)
        assert torch.allclose(weight, head, rtol=1e-9, atol=1e-12)


def test_an_unreadable_image_is_named(colours, encoder, monkeypatch) -> None:
    from data import BadImage

    def broken(index: int) -> None:
        raise BadImage(f"picture {index} is broken")

    images = colours(60, 5.0)
    monkeypatch.setattr(images, "image", broken)
    with pytest.raises(ValueError, match=r"picture \d+ is broken"):
        watch(encoder, images, images)
