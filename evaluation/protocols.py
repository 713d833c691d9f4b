"""The named ways to probe an encoder. The id is part of every metric's name: unlike numbers cannot be mixed up."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

LRS = tuple(10 ** (exponent / 3) for exponent in range(-12, 1))  # 13 from 1e-4 to 1, three a decade
WEIGHT_DECAYS = (0.0, 1e-2)
Interpolation = Literal["bilinear", "bicubic"]  # as augmentations.view has it, which imports more than --help needs
KNN_K, KNN_TEMPERATURE = 20, 0.07  # the defaults of solo-learn (9187ea3); DINOv2 (b8931f7) has them among others


def on_subset(name: str, subset: str) -> str:
    """Returns the name of a protocol or metric that is given a part of the training images, or all (subset "")."""
    return f"{name}-{subset}" if subset else name


@dataclass(frozen=True)
class Cached:
    """Heads on features that are computed once, without augmentation: for everyday use.

    Features are standardised by the training rows. Softmax regression by SGD with momentum 0.9 and cosine per step, for
    all (learning rate, weight decay) pairs at once, on each kind of features that the encoder gives; pair and kind are
    chosen on a tenth of every class of *train*, then one head a seed is trained on all of train.

    Args:
        epochs: passes over the training features; None: 10, and at least `min_steps` steps.
        min_steps: so that small sets converge too.
        batch_size: rows of a step, at most the set.
        holdout: the part of each class that the choice is made on.
        num_seeds: of order and initial head, if not said otherwise.
        subset: what part of the training images it is given, such as "1pct-balanced"; "": all.
    """

    epochs: int | None = None
    min_steps: int = 500
    batch_size: int = 256
    holdout: float = 0.1
    lrs: tuple[float, ...] = LRS
    weight_decays: tuple[float, ...] = WEIGHT_DECAYS
    num_seeds: int = 3
    subset: str = ""

    @property
    def id(self) -> str:
        """Returns "cached", "cached-30ep" where the epochs were chosen, "cached-1pct-balanced" on a part of train."""
        return on_subset("cached" if self.epochs is None else f"cached-{self.epochs}ep", self.subset)

    def num_steps(self, num_train: int) -> int:
        """Returns the steps for `num_train` rows."""
        per_epoch = max(1, num_train // self.batch_size)
        return max(10 * per_epoch, self.min_steps) if self.epochs is None else self.epochs * per_epoch


@dataclass(frozen=True)
class Augmented:
    """A paper's protocol: heads are trained on freshly augmented images, one pass of the frozen encoder a batch.

    Random resized crop and flip; softmax regression by SGD with momentum 0.9 from N(0, init_std^2), bias 0; cosine from
    the first step's learning rate to 0. The value is the last step's. Where there are several heads, that of the one
    that is chosen on held-out training images, which then are not trained on. The best on the test split, which most of
    the papers print, stands beside it and is named so.

    Args:
        name: whose protocol.
        epochs: passes over the training images, or over `epoch_steps` steps.
        batch_size: images of a step, of all ranks together.
        lrs: of the first step, one a head, for this batch size.
        lrs_transformer: the same for encoders with blocks, where the paper takes others.
        weight_decay: of weight and bias.
        nesterov: of the momentum.
        init_std: of the first weights.
        per_step: the learning rate falls with each step, not with each epoch.
        whole_batches: batches run on over the end of a pass; else its last batch is what is left of it.
        epoch_steps: steps of an epoch, whatever the number of images; None: a pass.
        interpolation, test_interpolation: of the crop, and of the resize of the test view.
        kinds: of an encoder's features with blocks (`Blocks`), each with heads of its own; of others "last" alone.
        wide_kinds: instead, of those of 768 features and more.
        holdout: the part of each class the head is chosen on, where there are several.
        epochs_of_name: with so many the name alone is the id.
        num_seeds: of order, crops and heads, if not said otherwise.
        subset: what part of the training images it is given; "": all.
    """

    name: str
    epochs: int
    batch_size: int
    lrs: tuple[float, ...]
    lrs_transformer: tuple[float, ...] | None = None
    weight_decay: float = 0.0
    nesterov: bool = False
    init_std: float = 0.01
    per_step: bool = False
    whole_batches: bool = False
    epoch_steps: int | None = None
    interpolation: Interpolation = "bilinear"
    test_interpolation: Interpolation = "bilinear"
    kinds: tuple[str, ...] = ("last",)
    wide_kinds: tuple[str, ...] | None = None
    holdout: float = 0.0
    epochs_of_name: int | None = None
    num_seeds: int = 1
    subset: str = ""

    @property
    def id(self) -> str:
        """Returns "bt-100ep", or "bt-100ep-1pct-simclr" on a part of train."""
        name = self.name if self.epochs == self.epochs_of_name else f"{self.name}-{self.epochs}ep"
        return on_subset(name, self.subset)

    def num_steps(self, num_train: int) -> int:
        """Returns the steps for `num_train` training images."""
        if self.epoch_steps is not None:
            return self.epochs * self.epoch_steps
        if self.whole_batches:  # google-research/simclr model_util.py (get_train_steps): its own rounding
            return num_train * self.epochs // self.batch_size + 1
        return self.epochs * math.ceil(num_train / self.batch_size)

    def decay(self, step: int, num_steps: int) -> float:
        """Returns the share of the first learning rate at `step`, in 0 .. 1."""
        part = step / num_steps if self.per_step else step * self.epochs // num_steps / self.epochs
        return 0.5 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class Neighbours:
    """Weighted k-nearest neighbours alone: nothing is trained, nothing chosen, nothing random.

    Args:
        k: neighbours that vote.
        temperature: a vote weighs exp(cosine similarity / temperature).
        subset: what part of the training images it is given; "": all.
    """

    k: int
    temperature: float
    subset: str = ""
    num_seeds: ClassVar[int] = 1
    holdout: ClassVar[float] = 0.0

    @property
    def id(self) -> str:
        """Returns "knn-k20-T0.07": the name of its metric, too."""
        return on_subset(f"knn-k{self.k}-T{self.temperature:g}", self.subset)


Protocol = Cached | Augmented | Neighbours

PROTOCOLS: dict[str, Protocol] = {
    p.id: p
    for p in (
        Cached(),
        # facebookresearch/barlowtwins evaluate.py at 8e8d284 (arguments' defaults).
        Augmented("bt", epochs=100, batch_size=256, lrs=(0.3,), weight_decay=1e-6),
        # facebookresearch/vicreg evaluate.py at 4e12602; README.md (--lr-head 0.02; the code's default is 0.3).
        Augmented("vicreg", epochs=100, batch_size=256, lrs=(0.02,), weight_decay=1e-6),
        # facebookresearch/moco-v3 main_lincls.py at c349e6e; CONFIG.md (--lr 3 for ViT).
        Augmented(
            "mocov3",
            epochs=90,
            batch_size=1024,
            lrs=(0.1 * 1024 / 256,),
            lrs_transformer=(3 * 1024 / 256,),
        ),
        # google-research/simclr run.py, model_util.py, data_util.py at 383d414; README.md (linear head on ImageNet).
        Augmented(
            "simclr",
            epochs=90,
            batch_size=4096,
            lrs=(0.1 * 4096 / 256,),
            weight_decay=1e-6,
            nesterov=True,
            init_std=0.0,
            per_step=True,
            whole_batches=True,
            interpolation="bicubic",
            test_interpolation="bicubic",
        ),
        # facebookresearch/dino eval_linear.py at 7c446df; README.md (8 processes, each 128 images; for ViT-B
        # --n_last_blocks 1 --avgpool_patchtokens true).
        Augmented(
            "dino",
            epochs=100,
            batch_size=8 * 128,
            lrs=(0.001 * 8 * 128 / 256,),
            test_interpolation="bicubic",
            kinds=("class4",),
            wide_kinds=("class1+patches",),
        ),
        # facebookresearch/dinov2 dinov2/eval/linear.py at b8931f7, data/transforms.py; run/submit.py (8 GPUs).
        Augmented(
            "dinov2-linear",
            epochs=10,
            batch_size=8 * 128,
            lrs=tuple(
                lr * 8 * 128 / 256
                for lr in (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
            ),
            per_step=True,
            whole_batches=True,
            epoch_steps=1250,
            interpolation="bicubic",
            test_interpolation="bicubic",
            kinds=("class1", "class1+patches", "class4", "class4+patches"),
            holdout=0.01,
            epochs_of_name=10,
        ),
        Neighbours(KNN_K, KNN_TEMPERATURE),
        # vturrisi/solo-learn at 9187ea3 and lightly-ai/lightly at e8d317f have 200 and 0.1 among others.
        Neighbours(200, 0.1),
    )
}


def find(name: str, epochs: int | None = None) -> Protocol:
    """Returns the protocol of that id; other epochs make it another protocol, with another id ("bt-10ep").

    Raises:
        ValueError: unknown name (with a suggestion), epochs below 1, or of a protocol that has none.
    """
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"unknown protocol {name!r}: {hint}There are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if epochs is None:
        return protocol
    if isinstance(protocol, Neighbours):
        raise ValueError(f"--epochs {epochs}: protocol {name} trains nothing; leave it out")
    if epochs < 1:
        raise ValueError(f"--epochs {epochs} should be at least 1")
    return replace(protocol, epochs=epochs)
