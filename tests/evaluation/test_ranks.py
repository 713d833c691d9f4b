"""Heads on augmented images, trained by two processes: what one makes of it, stopped at one step."""

import numpy as np
import pytest

from data import BadImage
from evaluation.resumable import learn
from tests.evaluation.test_augmented import ALONE, MANY, TINY, fitted
from tests.evaluation.test_resumable import VIEW, Broken, Sums, course
from tests.ranks import run_ranks
from training import stop


def heads(world, encoder, train_set, test_set):
    found = [fitted(encoder, train_set, test_set, protocol, seeds=[3], world=world) for protocol in (TINY, MANY)]
    return [(classifier.heads[0].weight.numpy(), curves.best_on_test()) for classifier, curves in found]


def interrupted(world, images, folder):
    """Returns what a stop and an unreadable image say, and how many steps there were to make after the stop."""
    said = []
    asked = iter(range(1000))
    for pictures, pending in (
        (images, lambda: "SIGUSR2" if world.rank == 1 and next(asked) == 4 else None),
        (Broken(images, 7), lambda: None),
    ):
        stop.pending = pending
        try:
            learn(Sums(), course(), pictures, VIEW, world, 0, 3, "test", folder)
        except (stop.Stopped, BadImage) as error:
            said.append(str(error))
    learner = Sums()
    curve = learn(learner, course(), images, VIEW, world, 0, 3, "test", folder)
    return said, len(learner.rows), len(curve)


def on_ranks(world, encoder, train_set, test_set, images, folder):
    return heads(world, encoder, train_set, test_set), interrupted(world, images, folder)


def test_ranks_share_each_batch_and_stop_at_the_same_step(colours, encoder, tmp_path):
    """Of 33 images in batches of 16 the last batch has one: a rank has none of it, and the gradient is the whole's."""
    sets = colours(33, 25, seed=1), colours(30, 25, seed=2)
    alone = heads(ALONE, encoder, *sets)
    first, second = run_ranks(on_ranks, 2, encoder, *sets, colours(10, 30), tmp_path)
    for (one, best), (mine, of_first), (other, of_second) in zip(alone, first[0], second[0], strict=True):
        assert np.array_equal(mine, other)
        assert one == pytest.approx(mine, abs=1e-5)
        assert best == of_first == of_second
    for (said, steps, epochs), who in ((first[1], "another rank"), (second[1], "SIGUSR2")):
        assert said[0].startswith(f"stopped by {who} at step 4, saved")
        assert said[1] == "7.png: broken"
        assert 0 < steps < 9
        assert epochs == 3
    assert first[1][1] == second[1][1]
