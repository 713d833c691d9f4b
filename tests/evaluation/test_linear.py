import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.heads import Labelled
from evaluation.linear import Setting, best_on_test, choose, fit, holdout, train_heads
from evaluation.protocols import Cached
from evaluation.table import accuracies

CPU = torch.device("cpu")
LAST = {"last": slice(None)}
SHORT = Cached(min_steps=60, batch_size=64)


def logistic_regression(x, y, num_classes, decay):
    """The optimum, by L-BFGS on standardised rows; returns the classifier of raw rows."""
    mean, std = x.mean(dim=0), x.std(dim=0)
    head = nn.Linear(x.shape[1], num_classes)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(head((x - mean) / std), y) + decay / 2 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return lambda rows: head((rows - mean) / std).argmax(dim=1)


@pytest.mark.parametrize(("num", "width", "classes", "distance"), [(2000, 32, 10, 4.0), (1200, 100, 4, 2.0)])
def test_within_a_point_of_logistic_regression(gaussians, num, width, classes, distance):
    x, y = gaussians(num, width, classes, distance, seed=1)
    test, test_y = gaussians(20_000, width, classes, distance, seed=2)
    best = max(
        100 * float((logistic_regression(x, y, classes, decay)(test) == test_y).float().mean())
        for decay in (0, 1e-4, 1e-3, 1e-2, 1e-1)
    )
    assert 40 < best < 98  # neither chance nor saturated: a worse probe would show
    classifier = fit(x, y, LAST, classes, Cached(), [0, 1], CPU)
    top1, top5 = accuracies(classifier.top(test), test_y).values()
    assert len(top1.values) == 2
    assert abs(top1.mean - best) < 1
    assert top5.mean >= top1.mean
    assert not classifier.selected["lr_at_edge_of_grid"]


def test_two_gaussians_reach_the_bayes_rate(gaussians):
    distance = 2.0
    x, y = gaussians(20_000, 16, 2, distance, seed=1)
    test, test_y = gaussians(100_000, 16, 2, distance, seed=2)
    bayes = 100 * 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))  # Phi(distance / 2)
    classifier = fit(x, y, LAST, 2, Cached(), [0], CPU)
    assert accuracies(classifier.top(test), test_y)["top1"].mean == pytest.approx(bayes, abs=0.4)


def test_a_head_is_what_torch_trains(gaussians):
    """The oracle: nn.Linear, torch.optim.SGD and cosine by step, with the same order and initial head."""
    x, y = gaussians(150, 6, 3, 2.0, seed=1)
    heads = train_heads(x, y, 3, [Setting(0.1, 1e-2)], [5], SHORT, CPU)

    generator = torch.Generator().manual_seed(5)
    head = nn.Linear(6, 3)
    with torch.no_grad():
        head.weight.copy_(0.01 * torch.randn(6, 3, 1, generator=generator)[..., 0].T)
        head.bias.zero_()
    groups = [{"params": [head.weight], "weight_decay": 1e-2}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, SHORT.num_steps(150))
    standard = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    for step in range(SHORT.num_steps(150)):
        if step % 2 == 0:  # two whole batches of 64 in 150 rows
            order = torch.randperm(150, generator=generator)
        rows = order[step % 2 * 64 : step % 2 * 64 + 64]
        loss = F.cross_entropy(head(standard[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(heads.weight[0, 0].T, head.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads.bias[0, 0], head.bias.detach(), rtol=1e-4, atol=1e-5)


def test_all_heads_at_once_equal_each_alone(gaussians):
    x, y = gaussians(300, 8, 4, 2.0, seed=1)
    settings = [Setting(lr, decay) for decay in (0.0, 0.1) for lr in (1e-3, 1e-1, 1.0)]
    together = train_heads(x, y, 4, settings, [0, 3], SHORT, CPU)
    for s, seed in enumerate((0, 3)):
        for h, setting in enumerate(settings):
            alone = train_heads(x, y, 4, [setting], [seed], SHORT, CPU)
            torch.testing.assert_close(together.weight[s, h], alone.weight[0, 0], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(together.bias[s, h], alone.bias[0, 0], rtol=1e-3, atol=1e-5)
    flat = together.weight.flatten(0, 1).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 12  # no two heads are the same


def test_score_counts_what_a_loop_counts(gaussians):
    x, y = gaussians(80, 8, 7, 3.0, seed=1)
    heads = train_heads(x, y, 7, [Setting(0.01, 0.0), Setting(1.0, 0.0)], [0], SHORT, CPU)
    top1, loss = heads.score(x, y)
    for h in range(2):
        z = ((x - heads.mean) * heads.scale) @ heads.weight[0, h] + heads.bias[0, h]
        ranked = [sorted(range(7), key=lambda c, row=row: -float(row[c])) for row in z]
        assert float(top1[0, h]) == pytest.approx(100 / 80 * sum(r[0] == c for r, c in zip(ranked, y, strict=True)))
        assert float(loss[0, h]) == pytest.approx(float(F.cross_entropy(z, y)), rel=1e-4)


def test_scale_and_offset_of_a_feature_do_not_matter(gaussians):
    x, y = gaussians(400, 8, 4, 2.0, seed=1)
    a, b = torch.logspace(-3, 3, 8), torch.linspace(-5, 5, 8)
    plain = train_heads(x, y, 4, [Setting(0.1, 0.0)], [0], SHORT, CPU)
    moved = train_heads(x * a + a * b, y, 4, [Setting(0.1, 0.0)], [0], SHORT, CPU)
    torch.testing.assert_close(plain.weight, moved.weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6])
def test_a_collapsed_encoder_gives_chance(value):
    x, y = torch.full((200, 6), value), torch.arange(200) % 5
    classifier = fit(x, y, LAST, 5, SHORT, [0], CPU)
    found = accuracies(classifier.top(x), y) | best_on_test(*[Labelled(x, y)] * 2, LAST, 5, SHORT, 0, CPU)
    assert [metric.mean for metric in found.values()] == pytest.approx([20, 100, 20])


def test_holdout_is_a_tenth_of_every_class():
    y = torch.tensor([0] * 100 + [1] * 29 + [2] * 5 + [3] * 2 + [4])
    held = holdout(y, 0.1)
    assert torch.bincount(y[held], minlength=5).tolist() == [10, 3, 1, 1, 0]
    assert torch.equal(held, holdout(y, 0.1))
    first = held[:100].nonzero().flatten()
    assert not torch.equal(first, torch.arange(10))  # drawn, not the first files of the folder
    with pytest.raises(ValueError, match="two training images"):
        holdout(torch.arange(6), 0.1)


def test_choice_takes_the_lower_loss_among_nearly_equal_accuracies():
    # Of 400 rows half a standard error at 50 % is 1.25 points.
    assert choose([50.0, 49.0, 48.0], [3.0, 2.0, 1.0], 400) == 1
    assert choose([50.0, 49.0, 48.0], [3.0, 2.0, 1.0], 400_000) == 0
    assert choose([50.0, 60.0], [2.0, math.nan], 400) == 0


def test_the_learning_rate_is_chosen_on_rows_of_train(gaussians):
    """A grid of which one rate only can learn: it is the one taken, and the seeds differ in what they then train."""
    x, y = gaussians(600, 16, 4, 4.0, seed=1)
    protocol = replace(SHORT, lrs=(1e-9, 1e-1, 1e-8), weight_decays=(0.0,))
    classifier = fit(x, y, LAST, 4, protocol, [0, 1, 2], CPU)
    selected = classifier.selected
    assert (selected["lr"], selected["weight_decay"], selected["lr_at_edge_of_grid"]) == (1e-1, 0.0, True)
    assert selected["holdout_top1"] > 80
    assert len(torch.unique(torch.stack([head.weight.flatten() for head in classifier.heads]), dim=0)) == 3


def test_the_kind_of_features_is_chosen_on_rows_of_train(gaussians):
    """Only the middle columns know the class: the head of all seeds reads these, and is what it is without the rest."""
    x, y = gaussians(600, 16, 4, 4.0, seed=1)
    noise = torch.randn(600, 10, generator=torch.Generator().manual_seed(2))
    wide = torch.cat([noise[:, :5], x, noise[:, 5:]], dim=1)
    kinds = {"last": slice(0, 5), "middle": slice(5, 21), "deep": slice(21, 26)}
    protocol = replace(SHORT, lrs=(1e-2, 1e-1), weight_decays=(0.0,))
    classifier = fit(wide, y, kinds, 4, protocol, [0, 1], CPU)
    alone = fit(x, y, {"middle": slice(None)}, 4, protocol, [0, 1], CPU)
    assert classifier.selected == alone.selected
    assert classifier.selected["kind"] == "middle"
    assert torch.equal(classifier.logits(wide), alone.logits(x))


def test_the_best_on_test_is_the_best_of_heads_trained_as_the_chosen_one_is(gaussians):
    x, y = gaussians(300, 16, 4, 3.0, seed=1)
    test, test_y = gaussians(400, 16, 4, 3.0, seed=5)
    kinds = {"last": slice(0, 8), "deep": slice(4, 16)}
    protocol = replace(SHORT, lrs=(1e-3, 1e-1), weight_decays=(0.0, 1e-1))
    (best,) = best_on_test(Labelled(x, y), Labelled(test, test_y), kinds, 4, protocol, 3, CPU).values()
    alone = [
        train_heads(x[:, columns], y, 4, [Setting(lr, decay)], [3], protocol, CPU).score(test[:, columns], test_y)[0]
        for columns in kinds.values()
        for lr in protocol.lrs
        for decay in protocol.weight_decays
    ]
    assert best.mean == pytest.approx(float(torch.cat(alone).max()))
    assert best.interval is None
    chosen = accuracies(fit(x, y, kinds, 4, protocol, [3], CPU).top(test), test_y)["top1"]
    assert best.mean >= chosen.mean


def test_half_precision_on_disk_trains_what_float_does(gaussians, tmp_path):
    """Features as they are cached, float16 in a mapped file, give to the bit what the same values give as float32."""
    x, y = gaussians(300, 8, 4, 2.0, seed=1)
    np.save(tmp_path / "x.npy", x.half().numpy())
    kept = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    assert kept.dtype == torch.float16
    protocol = replace(SHORT, lrs=(1e-2, 1e-1))
    found = fit(kept, y, LAST, 4, protocol, [0], CPU)
    plain = fit(x.half().float(), y, LAST, 4, protocol, [0], CPU)
    assert found.selected == plain.selected
    assert torch.equal(found.logits(kept), plain.logits(x.half()))


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_features_may_lie_beside_the_heads_or_away_from_them(gaussians, where):
    """torch's meta device computes nothing, but refuses to mix devices as a GPU would."""
    x, y = gaussians(150, 6, 3, 2.0, seed=1)
    settings = [Setting(lr, 0.0) for lr in (1e-3, 1e-1)]
    rows = torch.arange(0, 150, 2)
    heads = train_heads(
        x.to(where), y, 3, settings, [0, 1], SHORT, torch.device("meta"), rows=rows, columns=slice(1, 5)
    )
    assert heads.weight.shape == (2, 2, 4, 3)
    assert {tensor.device.type for tensor in (heads.mean, heads.scale, heads.weight, heads.bias)} == {"meta"}
