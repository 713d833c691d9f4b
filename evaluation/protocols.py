"""The named ways to probe an encoder. The id is part of every metric's name: unlike numbers cannot be mixed up."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

LRS = tuple(10 ** (exponent / 3) for exponent in range(-12, 1))  # 13 from 1e-4 to 1, three a decade
WEIGHT_DECAYS = (0.0, 1e-2)
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
    """A paper's protocol: the head is trained on freshly augmented images, one encoder pass a batch.

    Random resized crop (bilinear) and flip; SGD with momentum 0.9; cosine per epoch; head N(0, 0.01^2), bias 0; nothing
    is selected. The value is the last epoch's; the best epoch on the test split, which papers print, stands beside it.

    Args:
        name: whose protocol.
        epochs, batch_size, lr, weight_decay: the paper's (lr not scaled by the batch).
        num_seeds: of order, crops and head, if not said otherwise.
        subset: what part of the training images it is given; "": all.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    num_seeds: int = 1
    subset: str = ""

    @property
    def id(self) -> str:
        """Returns "bt-100ep", or "bt-100ep-1pct-simclr" on a part of train."""
        return on_subset(f"{self.name}-{self.epochs}ep", self.subset)


Protocol = Cached | Augmented

PROTOCOLS: dict[str, Protocol] = {
    p.id: p
    for p in (
        Cached(),
        # facebookresearch/barlowtwins evaluate.py at 8e8d284: its argument defaults
        Augmented("bt", epochs=100, batch_size=256, lr=0.3, weight_decay=1e-6),
    )
}


def find(name: str, epochs: int | None = None) -> Protocol:
    """Returns the protocol of that id; other epochs make it another protocol, with another id ("bt-10ep").

    Raises:
        ValueError: unknown name (with a suggestion), or epochs below 1.
    """
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"unknown protocol {name!r}: {hint}There are {', '.join(PROTOCOLS)}")
    if epochs is None:
        return PROTOCOLS[name]
    if epochs < 1:
        raise ValueError(f"--epochs {epochs} should be at least 1")
    return replace(PROTOCOLS[name], epochs=epochs)
