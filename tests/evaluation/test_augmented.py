from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from augmentations import PROBE_TRAIN, Center, crop, normalize, sample_random
from data.order import epoch_order
from evaluation.augmented import columns_of, evaluation_view, fit, prepared, train_view
from evaluation.blocks import Blocks
from evaluation.features import Extractor
from evaluation.heads import Labelled
from evaluation.intervals import Metric
from evaluation.linear import holdout
from evaluation.protocols import PROTOCOLS, Augmented, find
from models import Backbone
from parallel import World

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
VIEW = Center(resize=None, size=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
TINY = Augmented("bt", epochs=4, batch_size=16, lrs=(0.3,), weight_decay=1e-2)
STREAM = replace(TINY, nesterov=True, init_std=0.0, per_step=True, whole_batches=True, interpolation="bicubic")
MANY = replace(STREAM, lrs=(0.003, 0.03, 0.3), init_std=0.01, epoch_steps=3, holdout=0.1)


def fitted(encoder, train_set, test_set, protocol=TINY, workers=0, seeds=(0,), world=ALONE, folder=None, batch_size=7):
    extractor = Extractor({"it": encoder}, VIEW, world, workers, batch_size)
    sides = [Labelled(*(x["it"], y)) for x, y in (extractor(train_set), extractor(test_set))]
    return fit(encoder, extractor, train_set, *sides, protocol, seeds, "it", folder)


def plain_loop(encoder, train_set, protocol, rows, lr, seed=3):
    """What the official codes do: SGD on a linear layer, images in the order given, a schedule of torch's own."""
    encoder.eval()
    view = train_view(VIEW, protocol)
    head = nn.Linear(8, 6)
    with torch.no_grad():
        head.weight.copy_(protocol.init_std * torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)))
        head.bias.zero_()
    optimizer = torch.optim.SGD(
        head.parameters(), lr, momentum=0.9, weight_decay=protocol.weight_decay, nesterov=protocol.nesterov
    )
    ticks = len(rows) if protocol.per_step else protocol.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ticks)
    for step, batch in enumerate(rows):
        drawn = [view.draw(sample_random(seed, epoch, sample, 0), 12, 12) for epoch, sample in batch]
        pixels = [crop(train_set.pixels(sample), d) for (_, sample), d in zip(batch, drawn, strict=True)]
        with torch.no_grad():
            x = encoder(normalize(torch.stack(pixels), view.mean, view.std))
        labels = torch.as_tensor(train_set.labels)[[sample for _, sample in batch]]
        optimizer.zero_grad()
        F.cross_entropy(head(x), labels).backward()
        optimizer.step()
        if (step + 1) * ticks // len(rows) > step * ticks // len(rows):
            schedule.step()
    return head


def same_head(classifier, head):
    assert classifier.heads[0].columns == slice(None)
    assert torch.allclose(classifier.heads[0].weight, head.weight.T, atol=1e-5)
    assert torch.allclose(classifier.heads[0].bias, head.bias, atol=1e-5)


def same_weights(one, other):
    return torch.equal(one.heads[0].weight, other.heads[0].weight) and torch.equal(
        one.heads[0].bias, other.heads[0].bias
    )


def test_equals_the_plain_loop(colours, encoder):
    """Every image once an epoch, the last batch what is left; CosineAnnealingLR stepped once an epoch."""
    train_set, test_set = colours(40, 25, seed=1), colours(60, 25, seed=2)
    found, curves = fitted(encoder, train_set, test_set, seeds=[3])
    order = [[(epoch, int(i)) for i in epoch_order(3, epoch, 40)] for epoch in range(4)]
    rows = [batch for passed in order for batch in (passed[:16], passed[16:32], passed[32:])]
    head = plain_loop(encoder, train_set, TINY, rows, 0.3)
    same_head(found, head)
    assert found.selected == {}
    top1, top5 = ([epoch[k][0] for epoch in curves.values[0]] for k in (0, 1))
    assert len(set(top1)) > 1
    assert max(top1) > 30  # of six classes
    assert curves.best_on_test() == {
        "top1-best-epoch-on-test": Metric((max(top1),)),
        "top5-best-epoch-on-test": Metric((max(top5),)),
    }
    test, labels = Extractor({"it": encoder}, VIEW, ALONE)(test_set)
    assert top1[-1] == pytest.approx(100 * float((head(test["it"].float()).argmax(dim=1) == labels).float().mean()))


def test_batches_that_run_on_over_the_end_of_a_pass(colours, encoder):
    """SimCLR's: a zero head, Nesterov momentum, cosine per step, whole batches, num * epochs // batch + 1 steps."""
    train_set, test_set = colours(40, 25, seed=1), colours(60, 25, seed=2)
    found, curves = fitted(encoder, train_set, test_set, STREAM, seeds=[3])
    places = [(epoch, int(i)) for epoch in range(5) for i in epoch_order(3, epoch, 40)]
    rows = [places[16 * step : 16 * step + 16] for step in range(11)]
    same_head(found, plain_loop(encoder, train_set, STREAM, rows, 0.3))
    assert len(curves.values[0]) == 4


def test_many_heads_in_one_pass_are_what_each_is_alone(colours, encoder):
    """The one that counts is chosen on images of train that are not trained on; the best on test stands beside it."""
    train_set, test_set = colours(60, 40, seed=1), colours(60, 40, seed=2)
    forwards = []
    encoder.register_forward_hook(lambda module, given, out: forwards.append(len(out)) if given[0].ndim == 4 else None)
    found, curves = fitted(encoder, train_set, test_set, MANY, seeds=[3], batch_size=64)
    assert sum(forwards) == 60 + 60 + 12 * 16  # each set once, then each image of each batch once: not once a head
    held = holdout(torch.as_tensor(train_set.labels), 0.1)
    kept = (~held).nonzero().flatten()
    order = [(epoch, int(kept[i])) for epoch in range(4) for i in epoch_order(3, epoch, len(kept))]
    rows = [order[16 * step : 16 * step + 16] for step in range(12)]
    heads = [plain_loop(encoder, train_set, MANY, rows, lr) for lr in MANY.lrs]
    chosen = heads[MANY.lrs.index(found.selected["lr"])]
    same_head(found, chosen)
    extractor = Extractor({"it": encoder}, VIEW, ALONE)
    (test, labels), (train, train_labels) = extractor(test_set), extractor(train_set)
    for number, head in enumerate(heads):
        top1 = 100 * float((head(test["it"].float()).argmax(dim=1) == labels).float().mean())
        assert curves.values[0][-1][0][number] == pytest.approx(top1)
    right = chosen(train["it"][held].float()).argmax(dim=1) == train_labels[held]
    assert found.selected["holdout_top1"] == pytest.approx(100 * float(right.float().mean()))
    assert curves.best_on_test()["top1-best-head-on-test"] == Metric((max(curves.values[0][-1][0]),))


def test_kinds_of_features_have_heads_of_their_own(colours):
    """One pass of the transformer; each head equals one that is given its columns alone."""
    torch.manual_seed(0)
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2}
    encoder = Backbone("vit_tiny_patch16_224", small).build()[0].eval()
    train_set, test_set = colours(30, 40, seed=1), colours(12, 40, seed=2)
    dino2 = replace(PROTOCOLS["dinov2-linear"], epochs=2, epoch_steps=2, batch_size=8)
    assert list(columns_of(prepared(encoder, dino2), dino2)) == ["class1", "class1+patches", "class4", "class4+patches"]
    found, curves = fitted(prepared(encoder, dino2), train_set, test_set, dino2)
    assert len(curves.values[0][-1][0]) == 4 * 13
    features = Extractor({"it": prepared(encoder, dino2)}, VIEW, ALONE)(test_set)[0]["it"]
    assert found.logits(features).shape == (1, 12, 6)
    one = replace(dino2, kinds=(found.selected["kind"],), lrs=(found.selected["lr"],) * 2)
    alone, _ = fitted(prepared(encoder, dino2), train_set, test_set, one)
    assert torch.allclose(found.heads[0].weight, alone.heads[0].weight, atol=1e-6)
    assert found.heads[0].columns == alone.heads[0].columns
    assert list(columns_of(prepared(encoder, PROTOCOLS["dino-100ep"]), PROTOCOLS["dino-100ep"])) == ["class4"]
    assert not isinstance(prepared(encoder, PROTOCOLS["mocov3-90ep"]), Blocks)


def test_a_transformer_has_the_rate_that_its_paper_gives_it(colours):
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    encoder = Backbone("vit_tiny_patch16_224", small).build()[0].eval()
    train_set, test_set = colours(30, 40, seed=1), colours(12, 40, seed=2)
    moco = replace(TINY, lrs=(0.001,), lrs_transformer=(0.3,))
    found, _ = fitted(encoder, train_set, test_set, moco)
    assert same_weights(found, fitted(encoder, train_set, test_set)[0])


def test_workers_change_nothing_and_seeds_do(colours, encoder):
    train_set, test_set = colours(40, 25, seed=1), colours(200, 25, seed=2)
    here, curves = fitted(encoder, train_set, test_set, seeds=[0, 1])
    there, of_workers = fitted(encoder, train_set, test_set, workers=2)
    assert same_weights(here, there)
    assert curves.values[0] == of_workers.values[0] != curves.values[1]


def test_the_encoder_is_left_as_it_was(colours, encoder):
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    fitted(encoder, colours(40, 25, seed=1), colours(30, 25, seed=2))
    assert encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_papers_protocols():
    """facebookresearch/barlowtwins evaluate.py at 8e8d284, and the others' by the sources that PROTOCOLS names."""
    bt = PROTOCOLS["bt-100ep"]
    assert isinstance(bt, Augmented)
    assert (bt.epochs, bt.batch_size, bt.lrs, bt.weight_decay) == (100, 256, (0.3,), 1e-6)
    view = train_view(Center(), bt)
    assert view == PROBE_TRAIN
    assert (view.size, view.scale, view.interpolation, view.flip) == (224, (0.08, 1.0), "bilinear", 0.5)
    assert view.jitter == view.gray == view.blur == view.solarize == 0
    assert train_view(VIEW, bt) == replace(PROBE_TRAIN, size=8, mean=VIEW.mean, std=VIEW.std)
    assert evaluation_view(Center(), bt) == Center()
    imagenet = 1281167
    steps = {name: p.num_steps(imagenet) for name, p in PROTOCOLS.items() if isinstance(p, Augmented)}
    assert steps == {
        "bt-100ep": 500500,
        "vicreg-100ep": 500500,
        "mocov3-90ep": 112680,
        "simclr-90ep": 28151,
        "dino-100ep": 125200,
        "dinov2-linear": 12500,
    }
    assert PROTOCOLS["mocov3-90ep"].lrs_transformer == (12.0,)
    assert max(PROTOCOLS["dinov2-linear"].lrs) == pytest.approx(0.4)
    for name in ("simclr-90ep", "dino-100ep", "dinov2-linear"):
        assert evaluation_view(Center(), PROTOCOLS[name]).interpolation == "bicubic"
    assert [bt.decay(step, 500500) for step in (0, 5004, 5005)] == pytest.approx([1, 1, (1 + np.cos(np.pi / 100)) / 2])


def test_other_epochs_are_another_protocol():
    assert find("bt-100ep", 10).id == "bt-10ep"
    assert find("bt-100ep", 100).id == "bt-100ep"
    assert find("dinov2-linear").id == "dinov2-linear"
    assert find("dinov2-linear", 2).id == "dinov2-linear-2ep"
    assert find("cached", 30).id == "cached-30ep"
    assert find("cached").id == "cached"
    assert find("cached", 30).num_steps(2560) == 300
    for wrong in (("bt100ep", None), ("cached", 0)):
        with pytest.raises(ValueError, match=r"bt-100ep|at least 1"):
            find(*wrong)
