"""LARS against plain per-parameter transcriptions of both rules; groups, their table, and what the specs refuse."""

import copy
import math

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from training.lars import LARS
from training.optimizers import AdamW, Lars, Sgd, describe_groups


class Counter(TorchDispatchMode):
    """Names of the calls that reach the dispatcher; a read back to the host is `aten._local_scalar_dense`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    def syncs(self) -> int:
        return sum("_local_scalar_dense" in name or "is_nonzero" in name for name in self.names)


@torch.no_grad()
def plain_paper_step(params, mus: dict[Tensor, Tensor], lr, lr_vectors, weight_decay, momentum, eta) -> None:
    """The rule of arXiv 2103.03230's code, one tensor after the other, with Python conditions.

    The step is one `add` with `alpha`, which rounds once; p - lr * mu, rounded twice, differs in the last bit.
    """
    for p in params:
        update, rate = p.grad, lr_vectors
        if p.dim() > 1:
            rate = lr
            update = p.grad.add(p, alpha=weight_decay)
            size, step_size = torch.norm(p), torch.norm(update)
            if size.item() > 0 and step_size.item() > 0:
                update = update * (eta * size / step_size)
        mus[p] = mus.get(p, torch.zeros_like(p)) * momentum + update
        p.add_(mus[p], alpha=-rate)


@torch.no_grad()
def plain_solo_step(params, mus: dict[Tensor, Tensor], lr, weight_decay, momentum, eta, clip) -> None:
    """solo-learn's rule, one tensor after the other; its clip is Python's min, which sees the tensor's value."""
    for p in params:
        update = p.grad
        if p.dim() > 1:
            size, g_size = torch.norm(p), torch.norm(p.grad)
            if size.item() != 0 and g_size.item() != 0:
                trust = size / (g_size + size * weight_decay + 1e-8) * eta
                if clip:
                    trust = min(trust / lr, 1)
                update = p.grad.add(p, alpha=weight_decay) * trust
        mus[p] = update.clone() if p not in mus else mus[p] * momentum + update
        p.add_(mus[p], alpha=-lr)


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0, zero_init_last=True)
    gammas = [p for name, p in model.named_parameters() if name.endswith("bn2.weight")]
    assert len(gammas) == 8
    assert all((gamma == 0).all() for gamma in gammas)  # so half of the convolutions start without a gradient
    return model


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    wanted = torch.randn(4, 512, generator=generator)
    model.zero_grad()
    (model(images) - wanted).square().mean().backward()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    ours, plain = a.state_dict(), b.state_dict()
    assert [name for name in plain if not torch.equal(ours[name], plain[name])] == []


@pytest.mark.parametrize("weight_decay", [0.0, 1.5e-6, 1e-2])
def test_paper_rule_is_bit_identical_to_the_plain_loop(weight_decay):
    model, twin = resnet18(), resnet18()
    spec = Lars(lr=1.6, lr_vectors=0.0384, weight_decay=weight_decay)
    optimizer, mus = spec.build(model), {}
    start = {name: p.clone() for name, p in twin.named_parameters()}
    for step in range(5):
        backward(model, step)
        backward(twin, step)
        optimizer.step()
        plain_paper_step(twin.parameters(), mus, 1.6, 0.0384, weight_decay, momentum=0.9, eta=0.001)
        assert_same(model, twin)
    assert all(not torch.equal(p, start[name]) for name, p in twin.named_parameters())  # all of it moved


@pytest.mark.parametrize("clip", [False, True])
def test_solo_rule_is_bit_identical_to_the_plain_loop(clip):
    model, twin = resnet18(), resnet18()
    spec = Lars(lr=0.3, weight_decay=1e-4, eta=0.02, variant="solo-learn", clip=clip)
    optimizer, mus = spec.build(model), {}
    for step, factor in enumerate((0.0, 0.01, 0.5, 1.0, 0.3)):  # lr = 0 is the first step of a warm-up
        lr = 0.3 * factor
        for group in optimizer.param_groups:
            group["lr"] = lr
        backward(model, step)
        backward(twin, step)
        optimizer.step()
        plain_solo_step(twin.parameters(), mus, lr, 1e-4, momentum=0.9, eta=0.02, clip=clip)
        assert_same(model, twin)
        assert all(p.isfinite().all() for p in model.parameters())


def test_a_step_of_a_resnet50_reads_nothing_back_and_dispatches_few_calls():
    model = timm.create_model("resnet50", num_classes=0)
    assert len(list(model.parameters())) == 159
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for variant, clip in (("paper", False), ("solo-learn", True)):
        optimizer = Lars(lr=0.1, weight_decay=1e-4, variant=variant, clip=clip).build(model)
        optimizer.step()  # makes the momentum tensors, one call each
        with Counter() as counter:
            optimizer.step()
        assert counter.syncs() == 0
        assert len(counter.names) <= 30, counter.names
    with Counter() as plain:  # the counter sees what it is there to see
        plain_solo_step(model.parameters(), {}, 0.1, 1e-4, momentum=0.9, eta=0.02, clip=True)
    assert plain.syncs() > 0
    assert len(plain.names) > 300


def one_weight(p: list[list[float]], g: list[list[float]]) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(p))
    parameter.grad = torch.tensor(g)
    return parameter


def numbers(variant: str, clip: bool = False) -> dict:
    return {"lr": 0.5, "weight_decay": 0.1, "momentum": 0.9, "eta": 0.01, "variant": variant, "clip": clip}


def test_one_step_by_hand():
    # |p| = 5, |g| = 10. Paper: u = g + 0.1 p = (6.3, 8.4), |u| = 10.5. solo-learn: 10 + 0.5 = 10.5 as well, p and g
    # being parallel; so the rules agree. They differ for the orthogonal pair below: there |g + 0.1 p| = sqrt(100.25).
    for variant in ("paper", "solo-learn"):
        p = one_weight([[3.0, 4.0]], [[6.0, 8.0]])
        LARS([p], **numbers(variant)).step()
        scale = 0.5 * 0.01 * 5 / 10.5
        torch.testing.assert_close(p.data, torch.tensor([[3 - scale * 6.3, 4 - scale * 8.4]]))
    for variant, size in (("paper", math.sqrt(100.25)), ("solo-learn", 10.5)):
        p = one_weight([[3.0, 4.0]], [[8.0, -6.0]])
        LARS([p], **numbers(variant)).step()
        scale = 0.5 * 0.01 * 5 / size
        torch.testing.assert_close(p.data, torch.tensor([[3 - scale * 8.3, 4 + scale * 5.6]]))


def test_clip_bounds_the_step_by_plain_sgd():
    p = one_weight([[300.0, 400.0]], [[0.6, 0.8]])  # trust = 0.01 * 500 / (1 + 50) = 0.098 < lr: left alone
    LARS([p], **numbers("solo-learn", clip=True)).step()
    scale = 0.01 * 500 / 51
    torch.testing.assert_close(p.data, torch.tensor([[300 - scale * 30.6, 400 - scale * 40.8]]))
    p = one_weight([[3e3, 4e3]], [[0.06, 0.08]])
    LARS([p], **{**numbers("solo-learn", clip=True), "weight_decay": 0.0}).step()  # trust = 500 > lr: plain SGD
    torch.testing.assert_close(p.data, torch.tensor([[3e3 - 0.5 * 0.06, 4e3 - 0.5 * 0.08]]))


@pytest.mark.parametrize("variant", ["paper", "solo-learn"])
def test_zero_norms(variant):
    p = one_weight([[0.0, 0.0]], [[6.0, 8.0]])
    LARS([p], **numbers(variant)).step()
    torch.testing.assert_close(p.data, torch.tensor([[-3.0, -4.0]]))  # trust 1
    p = one_weight([[3.0, 4.0]], [[0.0, 0.0]])
    LARS([p], **numbers(variant)).step()
    if variant == "paper":  # the update is the decay: adapted as any other
        scale = 0.5 * 0.01 * 5 / 0.5 * 0.1
        torch.testing.assert_close(p.data, torch.tensor([[3 - scale * 3, 4 - scale * 4]]))
    else:  # no gradient, no decay
        assert torch.equal(p.data, torch.tensor([[3.0, 4.0]]))


def test_parameters_without_gradient_are_left_alone():
    used, unused = one_weight([[3.0, 4.0]], [[1.0, 1.0]]), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([used, unused], **numbers("paper"))
    optimizer.step()
    assert torch.equal(unused.data, torch.ones(2, 2))
    assert unused not in optimizer.state


def test_state_dict_resumes_to_the_bit():
    model, twin = resnet18(), resnet18()
    spec = Lars(lr=0.4, weight_decay=1e-4)
    optimizer = spec.build(model)
    for step in range(2):
        backward(model, step)
        optimizer.step()
    twin.load_state_dict(model.state_dict())
    resumed = spec.build(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # a load alone would share the momentum
    for each, its_optimizer in ((model, optimizer), (twin, resumed)):
        backward(each, 2)
        its_optimizer.step()
    assert_same(model, twin)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, depth=1)
        self.head = nn.Linear(192, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize(
    "spec",
    [
        Lars(lr=0.2, lr_vectors=0.0048, weight_decay=1e-6),
        Sgd(lr=0.2, momentum=0.9, weight_decay=1e-4),
        AdamW(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_groups(spec):
    towers = Towers()
    optimizer = spec.build(towers)
    names = {id(p): name for name, p in towers.named_parameters()}
    weights, vectors = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert [group["name"] for group in optimizer.param_groups] == ["weights", "vectors"]
    assert set(weights) == {
        name for name in names.values() if name.endswith(".weight") and "norm" not in name and "frozen" not in name
    }
    assert {"vit.cls_token", "vit.pos_embed", "vit.norm.weight", "vit.norm.bias", "head.bias", "scale"} <= set(vectors)
    assert not {"frozen.weight", "frozen.bias"} & {*weights, *vectors}
    assert sorted([*weights, *vectors]) == sorted(n for n in names.values() if not n.startswith("frozen"))
    rates = [group["peak_lr"] for group in optimizer.param_groups]
    assert rates == [spec.lr, getattr(spec, "lr_vectors", None) or spec.lr] == [g["lr"] for g in optimizer.param_groups]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [spec.weight_decay, 0.0]


def test_vectors_have_neither_decay_nor_adaptation():
    towers = Towers()
    optimizer = Lars(lr=0.2, lr_vectors=0.01, weight_decay=0.5).build(towers)
    before = {name: p.detach().clone() for name, p in towers.named_parameters()}
    for p in towers.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    for name in ("vit.cls_token", "vit.pos_embed", "head.bias", "scale"):
        torch.testing.assert_close(towers.get_parameter(name).data, before[name] - 0.01, msg=name)
    assert torch.equal(towers.frozen.weight, before["frozen.weight"])


def test_table_of_groups():
    table = describe_groups(Lars(lr=0.2, lr_vectors=0.0048, weight_decay=1e-6).build(nn.Linear(3, 2)))
    rows = [line.split(maxsplit=5) for line in table.splitlines()[1:]]
    assert rows == [
        ["weights", "1", "6", "0.2", "1e-06", "LARS (paper), eta 0.001"],
        ["vectors", "1", "2", "0.0048", "0", "none"],
    ]
    ends = {line.index(word) + len(word) for line, word in zip(table.splitlines(), ("peak lr", "0.2", "0.0048"))}
    assert len(ends) == 1  # aligned
    sgd = describe_groups(Sgd(lr=1, momentum=0.9, weight_decay=0).build(nn.Linear(3, 2)))
    assert [line.split()[-1] for line in sgd.splitlines()[1:]] == ["none", "none"]


def test_a_module_with_weights_only_still_has_both_groups():
    model = nn.Linear(3, 2, bias=False)
    for spec in (Lars(lr=1, weight_decay=0), AdamW(lr=1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0)):
        optimizer = spec.build(model)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]


def test_nothing_to_train():
    with pytest.raises(ValueError, match="Linear has no parameter to train"):
        Sgd(lr=1, momentum=0, weight_decay=0).build(nn.Linear(2, 2).requires_grad_(False))


LARS_GOOD = {"lr": 0.1, "weight_decay": 0.0}
SGD_GOOD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
ADAM_GOOD = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("spec", "good", "bad", "said"),
    [
        (Lars, LARS_GOOD, {"lr": -0.1}, "lr is -0.1"),
        (Lars, LARS_GOOD, {"lr": math.nan}, "lr is nan"),
        (Lars, LARS_GOOD, {"lr": "0.1"}, "lr is '0.1'"),
        (Lars, LARS_GOOD, {"lr_vectors": -1.0}, "lr_vectors is -1"),
        (Lars, LARS_GOOD, {"weight_decay": math.inf}, "weight_decay is inf"),
        (Lars, LARS_GOOD, {"momentum": 1.0}, "momentum is 1.0: must be below 1"),
        (Lars, LARS_GOOD, {"eta": -1e-3}, "eta is -0.001"),
        (Lars, LARS_GOOD, {"variant": "timm"}, "'timm': must be one of paper, solo-learn"),
        (Lars, LARS_GOOD, {"clip": True}, "no clip"),
        (Sgd, SGD_GOOD, {"lr": -1}, "lr is -1"),
        (Sgd, SGD_GOOD, {"momentum": 1}, "momentum is 1"),
        (Sgd, SGD_GOOD, {"momentum": 0.0, "nesterov": True}, "nesterov"),
        (AdamW, ADAM_GOOD, {"betas": (0.9, 1.0)}, "beta is 1.0"),
        (AdamW, ADAM_GOOD, {"betas": (0.9,)}, "two numbers"),
        (AdamW, ADAM_GOOD, {"eps": -1e-8}, "eps is -1e-08"),
    ],
)
def test_refused_numbers(spec, good, bad, said):
    spec(**good)
    with pytest.raises(ValueError, match=said):
        spec(**{**good, **bad})
