"""One stated rule for "these embeddings have collapsed", with the reason for each threshold.

Seen in small runs (a 3-layer network, ten classes, probe of N = 256; D = 128 and 1024; with and without BatchNorm):

    embeddings                                   feature std    RankMe
    healthy: Barlow Twins, VICReg, NT-Xent       0.68 .. 0.98   42 .. 139
    healthy but clustered: N-pairs, T = 1        0.92 .. 0.97   17 .. 56
    no decorrelation (VICReg cov 0, BT lambda 0) 0.77 .. 0.96   7 .. 36, falling
    to a point: only the views' distance         0.01 .. 0.08   1 .. 10
    to a line                                    about 0.8      1

Neither number sees everything: a line keeps its standard deviation, a point with noise keeps its rank.
"""

from collections.abc import Mapping
from typing import Protocol

COLLAPSED_STD = 0.1
"""Feature std (1 = spread) under which the embeddings are a point: two images' cosine is then 0.99 on average."""

RANKME_SHARE, RANKME_FLOOR, RANKME_CAP = 0.03, 2.0, 8.0
"""RankMe under 3 % of what min(N, D) allows is a dimensional collapse, but never above 8 nor below 2.

The cap: embeddings that gather in classes have a RankMe near the number of classes, and ten classes are not a collapse.
The floor: a line has 1, whatever N and D are.
"""

LOSS_BAND = 0.02
"""A loss this near to its collapsed value, as a share of the way from collapsed to perfect, stands on the line."""

HALFWAY_STD, HALFWAY_RANKME = 0.5, 3.0
"""A loss on the line is evidence, not proof: a falling loss crosses it, and that of N-pairs starts there. So it only
raises the bar for the other two: feature std under 0.5 (cosine 0.75), RankMe under 3 times its limit."""


class SanityLines(Protocol):
    """What a loss is worth in three known cases, for the batch it was computed on."""

    @property
    def collapsed(self) -> float: ...
    @property
    def independent(self) -> float: ...
    @property
    def perfect(self) -> float: ...


def collapse_warning(
    statistics: Mapping[str, float],
    num_rows: int,
    num_features: int,
    step: int,
    loss: float | None = None,
    sanity: SanityLines | None = None,
) -> str | None:
    """One line that says what has collapsed and by which number, or None.

    Step 0 never warns: an untrained network may well start from nearly equal embeddings.

    Args:
        statistics: with `feature_std` and `rankme`, as `embedding_statistics` gives them for the probe (N, D).
        num_rows, num_features: N and D of that probe.
        loss: the training loss now; used only together with `sanity`, its lines for the training batch.
    """
    if step == 0:
        return None
    std, rank = statistics["feature_std"], statistics["rankme"]
    limit = rankme_limit(num_rows, num_features)
    on_line = loss is not None and sanity is not None and stands_on_collapsed_line(loss, sanity)
    reasons = []
    if not std >= (HALFWAY_STD if on_line else COLLAPSED_STD):  # "not >=": NaN warns too
        reasons.append(f"feature std is {std:.3f} (spread 1, a point 0)")
    if not rank >= limit * (HALFWAY_RANKME if on_line else 1):
        reasons.append(f"RankMe is {rank:.1f} of at most {min(num_rows, num_features)}")
    if not reasons:
        return None
    if on_line:
        reasons.append(f"the loss {loss:.4g} is what collapsed embeddings give")
    return f"collapse at step {step}: {', '.join(reasons)}"


def rankme_limit(num_rows: int, num_features: int) -> float:
    """The RankMe of an (N, D) probe under which its dimensions have collapsed."""
    return min(max(RANKME_SHARE * min(num_rows, num_features), RANKME_FLOOR), RANKME_CAP)


def stands_on_collapsed_line(loss: float, sanity: SanityLines) -> bool:
    """Whether the loss is at its collapsed value; False where independent embeddings give nearly the same."""
    band = LOSS_BAND * abs(sanity.collapsed - sanity.perfect)
    return abs(loss - sanity.collapsed) <= band < abs(sanity.independent - sanity.collapsed) / 2
