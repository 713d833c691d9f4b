"""How papers fine-tune a whole network on a part of the labels: published learning rates, by paper and percentage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .protocols import Augmented


@dataclass(frozen=True)
class Finetuned:
    """A head that is trained on augmented images, and the encoder with it.

    Args:
        head: what holds for both, and the head's learning rate: `lrs` has one.
        lr_encoder: the encoder's, of the first step; it falls as the head's does.
    """

    head: Augmented
    lr_encoder: float

    @property
    def id(self) -> str:
        """Returns "finetune-bt-20ep-1pct-simclr"."""
        return f"finetune-{self.head.id}"

    @property
    def num_seeds(self) -> int:
        """Returns of how many seeds the accuracy is given, if not said otherwise."""
        return self.head.num_seeds


# facebookresearch/barlowtwins README.md and evaluate.py at 8e8d284 for 1 %; its issue 14: "the same" for 10 %.
_BARLOW_TWINS = Finetuned(Augmented("bt", epochs=20, batch_size=256, lrs=(0.5,)), lr_encoder=0.005)


def _vicreg(lr_encoder: float, lr_head: float) -> Finetuned:
    # facebookresearch/vicreg README.md and evaluate.py at 4e12602, where the README's --lr-classifier is --lr-head.
    return Finetuned(Augmented("vicreg", epochs=20, batch_size=256, lrs=(lr_head,)), lr_encoder)


def _simclr(epochs: int) -> Finetuned:
    # arXiv 2002.05709, appendix B.5. What it leaves open is as in google-research/simclr at 383d414: a cosine per step,
    # batches that run on over the end of an epoch (model_util.py, data.py), a head of zeros (README.md).
    rate = 0.05 * 4096 / 256
    head = Augmented(
        "simclr",
        epochs=epochs,
        batch_size=4096,
        lrs=(rate,),
        nesterov=True,
        init_std=0.0,
        per_step=True,
        whole_batches=True,
        interpolation="bicubic",
        test_interpolation="bicubic",
    )
    return Finetuned(head, rate)


RATES: dict[str, dict[int, Finetuned]] = {
    "bt": {1: _BARLOW_TWINS, 10: _BARLOW_TWINS},
    "vicreg": {1: _vicreg(0.03, 0.08), 10: _vicreg(0.01, 0.1)},
    "simclr": {1: _simclr(60), 10: _simclr(30)},
}


def finetuned(paper: str, percent: int | None, subset: str, epochs: int | None = None) -> Finetuned:
    """Returns a paper's way to fine-tune on 1 % or 10 % of the training images.

    Args:
        percent: 1 or 10; None: some other part, or all.
        subset: the part's id, "" for all: a part of the name.
        epochs: others than the paper's make another protocol, with another name.

    Raises:
        ValueError: the paper has no rates for that part.
    """
    if percent is None:
        which = f"the images of {subset}" if subset else "all training images"
        raise ValueError(f"--finetune {paper}: published rates are for --subset 1% and 10%, none for {which}")
    found = RATES[paper][percent]
    head = replace(found.head, subset=subset, epochs=found.head.epochs if epochs is None else epochs)
    return replace(found, head=head)
