from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from augmentations import PROBE_TRAIN, Center, normalize, render, sample_random
from evaluation.augmented import train_head, train_view
from evaluation.features import extract
from evaluation.protocols import PROTOCOLS, Augmented, find

CPU = torch.device("cpu")
VIEW = Center(resize=None, size=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
TINY = Augmented("bt", epochs=4, batch_size=16, lr=0.3, weight_decay=1e-2)


def curve(encoder, train_set, test_set, protocol=TINY, workers=0, seed=0):
    test, labels = extract(encoder, test_set, VIEW, 16, CPU, 0)
    return train_head(encoder, train_set, test, labels, train_view(VIEW), protocol, CPU, workers, seed)[1]


def test_equals_the_plain_loop(colours, encoder):
    """The official loop: SGD with momentum on the head, CosineAnnealingLR stepped once an epoch, every image once."""
    train_set, test_set = colours(40, 25, seed=1), colours(60, 25, seed=2)
    found = curve(encoder, train_set, test_set, seed=3)

    encoder.eval()
    view = train_view(VIEW)
    test, labels = extract(encoder, test_set, VIEW, 16, CPU, 0)
    head = nn.Linear(8, 6)
    with torch.no_grad():
        head.weight.copy_(0.01 * torch.randn(6, 8, generator=torch.Generator().manual_seed(3)))
        head.bias.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    generator = torch.Generator().manual_seed(3)
    top1 = []
    for epoch in range(4):
        order = torch.randperm(40, generator=generator)
        for rows in (order[:16], order[16:32], order[32:]):
            drawn = [view.draw(sample_random(3, epoch, int(i), 0), 12, 12) for i in rows]
            pixels = [render(train_set.image(int(i)), d) for i, d in zip(rows, drawn, strict=True)]
            with torch.no_grad():
                x = encoder(normalize(torch.stack(pixels), view.mean, view.std))
            loss = F.cross_entropy(head(x), torch.as_tensor(train_set.labels)[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        top1.append(100 * float((head(test).argmax(dim=1) == labels).float().mean()))
    assert list(found.top1) == pytest.approx(top1)
    assert len(set(top1)) > 1
    assert max(top1) > 30  # of six classes


def test_workers_change_nothing_and_seeds_do(colours, encoder):
    train_set, test_set = colours(40, 25, seed=1), colours(200, 25, seed=2)
    here = curve(encoder, train_set, test_set)
    assert curve(encoder, train_set, test_set, workers=2) == here
    assert curve(encoder, train_set, test_set, seed=1) != here


def test_the_encoder_is_left_as_it_was(colours, encoder):
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    curve(encoder, colours(40, 25, seed=1), colours(30, 25, seed=2))
    assert encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_paper_s_protocol():
    """facebookresearch/barlowtwins evaluate.py at 8e8d284."""
    bt = PROTOCOLS["bt-100ep"]
    assert isinstance(bt, Augmented)
    assert (bt.epochs, bt.batch_size, bt.lr, bt.weight_decay) == (100, 256, 0.3, 1e-6)
    view = train_view(Center())
    assert view == PROBE_TRAIN
    assert (view.size, view.scale, view.interpolation, view.flip) == (224, (0.08, 1.0), "bilinear", 0.5)
    assert view.jitter == view.gray == view.blur == view.solarize == 0
    small = train_view(VIEW)
    assert small == replace(PROBE_TRAIN, size=8, mean=VIEW.mean, std=VIEW.std)


def test_other_epochs_are_another_protocol():
    assert find("bt-100ep", 10).id == "bt-10ep"
    assert find("bt-100ep", 100).id == "bt-100ep"
    assert find("cached", 30).id == "cached-30ep"
    assert find("cached").id == "cached"
    assert find("cached", 30).num_steps(2560) == 300
    for wrong in (("bt100ep", None), ("cached", 0)):
        with pytest.raises(ValueError, match=r"bt-100ep|at least 1"):
            find(*wrong)
