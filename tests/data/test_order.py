"""Every sample at most once an epoch, the same global batch for any number of ranks, all from (seed, step) alone."""

from __future__ import annotations

import numpy as np
import pytest

from data.order import batch_samples, epoch_order


def test_an_epoch_is_a_permutation_that_looks_random() -> None:
    order = epoch_order(seed=0, epoch=0, num_samples=5000)
    assert sorted(order) == list(range(5000))
    # a random permutation's rank correlation with the identity has standard deviation 1/sqrt(N)
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 4 / 5000**0.5
    steps = np.abs(np.diff(order))
    assert steps.mean() == pytest.approx(5000 / 3, rel=0.05)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [epoch_order(seed, epoch, 1000) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).mean() < 0.02
            assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / 1000**0.5


def test_the_order_does_not_change_between_versions() -> None:
    """Written down once: another order would silently change every run that is resumed. Checked by plain integers."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    key = mix((mix(3) + 7) & mask)
    expected = sorted(range(50), key=lambda sample: mix((sample + key) & mask))
    assert epoch_order(seed=3, epoch=7, num_samples=50).tolist() == expected


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_share_the_global_batch_in_rank_order(world: int) -> None:
    for step in range(30):
        epoch, whole = batch_samples(5, step, 0, 1, 16, 100)
        parts = [batch_samples(5, step, rank, world, 16, 100) for rank in range(world)]
        assert {part[0] for part in parts} == {epoch}
        assert np.concatenate([part[1] for part in parts]).tolist() == whole.tolist()


def test_each_sample_comes_at_most_once_an_epoch_and_all_come_in_time() -> None:
    seen: dict[int, list[int]] = {}
    for step in range(6 * 40):
        epoch, samples = batch_samples(0, step, 0, 1, 16, 100)
        seen.setdefault(epoch, []).extend(samples.tolist())
    assert list(seen) == list(range(40))
    for samples in seen.values():
        assert len(set(samples)) == len(samples) == 96
    # the four that are left out differ from epoch to epoch
    assert set().union(*seen.values()) == set(range(100))
    left_out = [frozenset(range(100)) - set(samples) for samples in seen.values()]
    assert len(set(left_out)) > 35
