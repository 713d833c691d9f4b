"""The losses that ours are measured against: a checkout's own code, named by its commit, or plain transcriptions.

Transcriptions compute as their papers' code does, one step after another, all of it stored. Rivals' code is imported
from where it lies and run as on one process: exchanges between ranks, and networks before the loss, are the identity.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import BarlowTwins, NPairs, NTXent, SampleCorrelation, VICReg

Formula = Callable[[Tensor, Tensor], Tensor]


class Rival(NamedTuple):
    """A loss of ours and what computes the same: whose it is, and its formula for N rows of D features."""

    loss: Any
    whose: str
    formula: Callable[[int, int], Formula]


# ---- plain transcriptions


def copied_off_diagonal(c: Tensor) -> Tensor:
    """Returns a flat copy of the off-diagonal elements of `c` (n, n), which the official codes make."""
    n = len(c)
    return c.flatten()[1:].view(n - 1, n + 1)[:, :-1].flatten()


def barlow_twins(a: Tensor, b: Tensor) -> Tensor:
    norm = torch.nn.BatchNorm1d(a.shape[1], affine=False)
    c = norm(a).T @ norm(b)
    c.div_(len(a))
    return c.diagonal().add(-1).pow(2).sum() + 5.1e-3 * copied_off_diagonal(c).pow_(2).sum()


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    invariance = F.mse_loss(a, b)
    variance = covariance = torch.zeros(())
    for z in (a, b):
        z = z - z.mean(0)
        variance = variance + F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        covariance = covariance + copied_off_diagonal(z.T @ z / (len(z) - 1)).pow_(2).sum() / z.shape[1]
    return 25 * invariance + 25 * variance + covariance


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """SimCLR's four blocks of logits, each view masked out of its own row."""
    a, b = F.normalize(a), F.normalize(b)
    right, itself = torch.arange(len(a)), 1e9 * torch.eye(len(a))
    aa, bb, ab, ba = a @ a.T / 0.1 - itself, b @ b.T / 0.1 - itself, a @ b.T / 0.1, b @ a.T / 0.1
    return (F.cross_entropy(torch.cat([ab, aa], 1), right) + F.cross_entropy(torch.cat([ba, bb], 1), right)) / 2


def clip(a: Tensor, b: Tensor) -> Tensor:
    a, b = F.normalize(a), F.normalize(b)
    right = torch.arange(len(a))
    return (F.cross_entropy(a @ b.T / 0.07, right) + F.cross_entropy(b @ a.T / 0.07, right)) / 2


def sample_correlation(a: Tensor, b: Tensor) -> Tensor:
    c = F.layer_norm(a, a.shape[1:]) @ F.layer_norm(b, b.shape[1:]).T
    c.div_(a.shape[1])
    return 0.025 * (c.diagonal().add(-1).pow(2).sum() + 5e-3 * copied_off_diagonal(c).pow_(2).sum())


def transcriptions() -> list[Rival]:
    """Returns a plain transcription of each formula."""
    pairs: list[tuple[Any, Formula]] = [
        (BarlowTwins(), barlow_twins),
        (VICReg(), vicreg),
        (SampleCorrelation(), sample_correlation),
        (NTXent(), nt_xent),
        (NPairs(), clip),
    ]
    return [Rival(loss, "transcription", lambda rows, features, form=form: form) for loss, form in pairs]


# ---- checkouts


def barlowtwins_checkout(checkout: Path) -> list[Rival]:
    """Returns facebookresearch/barlowtwins: the forward of main.py's BarlowTwins."""
    module = _file(checkout / "main.py")

    def formula(rows: int, features: int) -> Formula:
        model = _without_networks(module.BarlowTwins, SimpleNamespace(batch_size=rows, lambd=5.1e-3))
        model.bn = nn.BatchNorm1d(features, affine=False)

        def one_process(a: Tensor, b: Tensor) -> Tensor:
            with mock.patch.object(torch.distributed, "all_reduce"):
                return model(a, b)

        return one_process

    return [Rival(BarlowTwins(), f"official@{_commit(checkout)}", formula)]


def vicreg_checkout(checkout: Path) -> list[Rival]:
    """Returns facebookresearch/vicreg: the forward of main_vicreg.py's VICReg."""
    with _first_on_path(checkout):
        module = importlib.import_module("main_vicreg")
    vars(module)["FullGatherLayer"] = SimpleNamespace(apply=lambda x: (x,))

    def formula(rows: int, features: int) -> Formula:
        weights = SimpleNamespace(batch_size=rows, sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0)
        model = _without_networks(module.VICReg, weights)
        model.num_features = features
        return model

    return [Rival(VICReg(), f"official@{_commit(checkout)}", formula)]


def lightly_checkout(checkout: Path) -> list[Rival]:
    """Returns lightly: its NTXentLoss and BarlowTwinsLoss."""
    with _first_on_path(checkout):
        loss = importlib.import_module("lightly.loss")
    whose = f"lightly@{_commit(checkout)}"
    return [
        Rival(NTXent(0.1), whose, lambda rows, features: loss.NTXentLoss(temperature=0.1)),
        Rival(BarlowTwins(5e-3), whose, lambda rows, features: loss.BarlowTwinsLoss(5e-3)),
    ]


def solo_learn_checkout(checkout: Path) -> list[Rival]:
    """Returns solo-learn: its barlow_loss_func, vicreg_loss_func and simclr_loss_func, a file each."""
    alone = ModuleType("solo.utils.misc")  # the real one imports what its losses do not need
    vars(alone).update(gather=lambda x: x, get_rank=lambda: 0)
    with mock.patch.dict(sys.modules, {"solo.utils.misc": alone}):
        names = ("barlow", "vicreg", "simclr")
        barlow, covariance, simclr = (_file(checkout / "solo" / "losses" / f"{name}.py") for name in names)

    def nt_xent(rows: int, features: int) -> Formula:
        indexes = torch.arange(rows).repeat(2)
        return lambda a, b: simclr.simclr_loss_func(torch.cat([a, b]), indexes, 0.1)

    whose = f"solo-learn@{_commit(checkout)}"
    return [
        Rival(BarlowTwins(5e-3, 0.025), whose, lambda rows, features: barlow.barlow_loss_func),
        Rival(VICReg(variance=50.0), whose, lambda rows, features: covariance.vicreg_loss_func),
        Rival(NTXent(0.1), whose, nt_xent),
    ]


def _without_networks(kind: type[nn.Module], args: Any) -> Any:
    """Returns a model of this class whose forward takes embeddings: its networks are not built."""
    model: Any = kind.__new__(kind)
    nn.Module.__init__(model)
    model.args, model.backbone, model.projector = args, nn.Identity(), nn.Identity()
    return model


def _commit(checkout: Path) -> str:
    from benchmarks.official import commit_of  # with torchvision, which transcriptions do not need

    return commit_of(checkout)[:7]


def _file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"rival_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _first_on_path(folder: Path) -> Generator[None]:
    """Imports come from `folder` first; what ours and theirs both call `augmentations` is ours again afterwards."""
    before = dict(sys.modules)
    sys.modules.pop("augmentations", None)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in ("augmentations", "distributed", "resnet", "main_vicreg"):
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})
