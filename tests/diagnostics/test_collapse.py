"""The rule on planted embeddings, and on small networks that really train into health or collapse."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics.collapse import (
    RANKME_CAP,
    RANKME_FLOOR,
    collapse_warning,
    rankme_limit,
    stands_on_collapsed_line,
)
from diagnostics.embedding_stats import embedding_statistics
from losses import BarlowTwins, NPairs, Sanity

N, D = 256, 128


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def verdict(a: Tensor, b: Tensor | None = None, step: int = 100, **loss: object) -> str | None:
    b = a + 0.01 * a.std() * normal(*a.shape, seed=9) if b is None else b
    return collapse_warning(embedding_statistics(a, b), *a.shape, step, **loss)


def in_dimensions(k: int) -> Tensor:
    return normal(N, k, seed=k) @ normal(k, D, seed=k + 1)


def in_classes(k: int) -> Tensor:
    return 3 * normal(k, D, seed=k)[torch.arange(N) % k] + 0.2 * normal(N, D)


def test_a_point_warns_by_its_std_whatever_its_rank() -> None:
    text = verdict(normal(1, D) + 0.03 * normal(N, D))
    assert text is not None
    assert "step 100" in text
    assert "feature std is 0.0" in text


def test_a_line_warns_by_its_rank_whatever_its_std() -> None:
    a = normal(N, 1) @ normal(1, D)
    text = verdict(a, a)
    assert text is not None
    assert "RankMe is 1.0 of at most 128" in text
    assert "feature std" not in text


@pytest.mark.parametrize("k", [2, 3])
def test_dimensional_collapse_warns(k: int) -> None:
    text = verdict(in_dimensions(k), in_dimensions(k))
    assert text is not None
    assert "RankMe" in text


@pytest.mark.parametrize("a", [normal(N, D), normal(N, D).relu(), normal(64, 2048), in_classes(10), in_dimensions(16)])
def test_healthy_embeddings_do_not_warn(a: Tensor) -> None:
    assert verdict(a) is None


def test_step_0_never_warns() -> None:
    assert verdict(torch.ones(N, D), step=0) is None
    assert verdict(torch.ones(N, D), step=1) is not None


def test_what_is_not_finite_warns() -> None:
    assert verdict(torch.full((N, D), torch.nan)) is not None


def test_the_limit_of_rankme_grows_with_the_probe_between_its_bounds() -> None:
    assert rankme_limit(32, 8192) == RANKME_FLOOR
    assert rankme_limit(100, 200) == rankme_limit(200, 100) == pytest.approx(3)
    assert rankme_limit(4096, 8192) == RANKME_CAP


def trained(loss: Callable[[Tensor, Tensor], Tensor], steps: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) of two views of a probe, by a small network trained with `loss` on ten noisy classes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, D))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    centres, mix = 1.5 * torch.randn(10, 16), torch.randn(16, 32) / 4

    def views() -> tuple[Tensor, Tensor]:
        x = centres[torch.randint(10, (N,))] + torch.randn(N, 16)
        return tuple(torch.tanh((x + 0.3 * torch.randn(N, 16)) @ mix) for _ in range(2))

    for _ in range(steps):
        optimizer.zero_grad()
        a, b = views()
        loss(net(a), net(b)).backward()
        optimizer.step()
    with torch.no_grad():
        a, b = views()
        return net(a), net(b)


def test_barlow_twins_trains_without_a_warning() -> None:
    loss = BarlowTwins()
    a, b = trained(lambda a, b: sum(loss(a, b).values()), steps=60)
    assert verdict(a, b) is None


def test_n_pairs_trains_without_a_warning_although_its_loss_starts_at_the_collapsed_value() -> None:
    loss = NPairs(1.0, symmetric=False)
    a, b = trained(lambda a, b: sum(loss(a, b).values()), steps=60)
    now = float(sum(loss(a, b).values()))
    assert verdict(a, b, loss=now, sanity=loss.sanity(N, D)) is None


def test_pulling_views_together_alone_collapses_and_warns() -> None:
    a, b = trained(lambda a, b: (a - b).square().mean(), steps=60)
    assert verdict(a, b) is not None


LINES = Sanity(collapsed=100.0, independent=120.0, perfect=0.0)


@pytest.mark.parametrize(("loss", "stands"), [(100.0, True), (98.1, True), (101.9, True), (97.0, False), (60.0, False)])
def test_a_loss_stands_on_the_line_within_two_percent_of_the_way(loss: float, stands: bool) -> None:
    assert stands_on_collapsed_line(loss, LINES) is stands


def test_a_line_that_independent_embeddings_share_says_nothing() -> None:
    assert not stands_on_collapsed_line(100.0, Sanity(collapsed=100.0, independent=99.0, perfect=0.0))
    assert not stands_on_collapsed_line(1.0, Sanity(collapsed=1.0, independent=1.0, perfect=1.0))


def test_a_loss_on_the_line_makes_half_collapsed_embeddings_warn() -> None:
    halfway = normal(1, D) + 0.3 * normal(N, D)  # feature std about 0.3: worrying, not proof
    assert verdict(halfway) is None
    assert verdict(halfway, loss=50.0, sanity=LINES) is None
    text = verdict(halfway, loss=100.0, sanity=LINES)
    assert text is not None
    assert "the loss 100 is what collapsed embeddings give" in text
    assert verdict(normal(N, D), loss=100.0, sanity=LINES) is None, "the loss alone is no proof"
