"""A training that was stopped and taken up again equals one that was not, to the bit."""

import numpy as np
import pytest
import torch

from augmentations import View
from data import BadImage
from evaluation.resumable import Course, learn, state_folder
from parallel import World
from training import stop

ALONE = World(0, 1, torch.device("cpu"))
VIEW = View(size=8, interpolation="bilinear", jitter=0.0, gray=0.0)


class Sums:
    """A learner that any other order, crop or number of steps would give another value."""

    def __init__(self):
        self.value, self.measured, self.rows = torch.zeros(3, dtype=torch.float64), 0, []

    def see(self, x):
        return x.double().sum(dim=(0, 2, 3))

    def step(self, seen, labels, num_rows, step):
        self.rows.append((num_rows, len(labels), sum(labels.tolist())))
        self.value = self.value * 0.9 + sum(seen, torch.zeros(3, dtype=torch.float64)) / num_rows + step

    def measure(self):
        self.measured += 1
        return [self.value.tolist()]

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def course(num=10, whole=False, seed=5):
    return Course(np.arange(num), 4, 3 * 3, 3, whole, seed)


def run(images, folder=None, which=None, workers=0, world=ALONE):
    learner = Sums()
    curve = learn(learner, which or course(), images, VIEW, world, workers, 3, "test", folder)
    return learner, curve


def stop_before(monkeypatch, step):
    """Has a signal come before `step` steps were made in this process."""
    asked = iter(range(1000))
    monkeypatch.setattr(stop, "pending", lambda: "SIGTERM" if next(asked) == step else None)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("whole", [False, True])
def test_stopped_and_taken_up_again_it_is_the_same_to_the_bit(colours, tmp_path, monkeypatch, whole, workers):
    images = colours(10, 30)
    undisturbed, expected = run(images, which=course(whole=whole))
    assert len(expected) == undisturbed.measured == 3
    for before in (4, 2):  # in the middle of epochs
        stop_before(monkeypatch, before)
        with pytest.raises(stop.Stopped, match=rf"stopped by SIGTERM at step {4 if before == 4 else 6}, saved"):
            run(images, tmp_path, course(whole=whole), workers)
    monkeypatch.undo()
    learner, curve = run(images, tmp_path, course(whole=whole), workers)
    assert torch.equal(learner.value, undisturbed.value)
    assert curve == expected
    assert learner.measured == 1
    again, curve = run(images, tmp_path, course(whole=whole), workers)  # finished: nothing is done again
    assert (again.rows, curve) == ([], expected)
    assert torch.equal(again.value, undisturbed.value)


def test_a_kill_repeats_what_was_not_saved(colours, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.resumable.SAVE_EVERY_S", -1)  # after every step
    images = colours(10, 30)
    undisturbed, expected = run(images)

    calls, right = iter(range(100)), Sums.see

    def see(self, x):
        if next(calls) == 9:
            raise KeyboardInterrupt
        return right(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(Sums, "see", see)
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path)
    learner, curve = run(images, tmp_path)
    assert 0 < len(learner.rows) < 9
    assert torch.equal(learner.value, undisturbed.value)
    assert curve == expected


def test_a_damaged_state_is_passed_over_and_all_damaged_are_refused(colours, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.resumable.SAVE_EVERY_S", -1)
    images = colours(10, 30)
    undisturbed, _ = run(images, tmp_path)
    _, newest = sorted(tmp_path.glob("step_*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    learner, _ = run(images, tmp_path)
    assert len(learner.rows) == 1
    assert torch.equal(learner.value, undisturbed.value)
    for state in tmp_path.glob("step_*.pt"):
        state.write_bytes(b"")
    with pytest.raises(ValueError, match="every state in it is damaged; remove it"):
        run(images, tmp_path)


class Broken:
    """Images of which one cannot be read."""

    def __init__(self, images, broken):
        self.images, self.broken, self.labels, self.classes = images, broken, images.labels, images.classes

    def pixels(self, index):
        if index == self.broken:
            raise BadImage(f"{index}.png: broken")
        return self.images.pixels(index)


def test_an_unreadable_image_keeps_what_was_done(colours, tmp_path):
    images = colours(10, 30)
    with pytest.raises(BadImage, match=r"7\.png: broken"):
        run(Broken(images, 7), tmp_path)
    learner, _ = run(images, tmp_path)  # mended
    undisturbed, _ = run(images)
    assert torch.equal(learner.value, undisturbed.value)


def test_a_full_disk_is_said(colours, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    stop_before(monkeypatch, 2)
    with pytest.raises(stop.Stopped, match="step 2 could not be saved"):
        run(colours(10, 30), tmp_path / "file" / "folder")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ranks_have_each_image_of_a_batch_once(whole, size):
    """Batches of 4 out of 10 images: uneven shares, a short last batch, ranks with nothing, ends of passes."""
    one = course(whole=whole)
    places = []
    for step in range(9):
        pieces = [piece for rank in range(size) for piece in one.pieces(step, rank, size, 3)]
        assert all(0 < len(samples) <= 3 for _, samples in pieces)
        batch = [(epoch, int(sample)) for epoch, samples in pieces for sample in samples]
        assert len(batch) == len(one.batch(step)) == (4 if whole or step % 3 < 2 else 2)
        places += batch
    num_passes = len(places) // 10
    assert sorted(places[: num_passes * 10]) == [(epoch, i) for epoch in range(num_passes) for i in range(10)]
    assert [one.num_measured(step) for step in (0, 3, 8, 9)] == [0, 1, 2, 3]


def test_a_set_smaller_than_a_batch_comes_several_times(colours):
    one = course(num=3, whole=True)
    pieces = one.pieces(0, 0, 1, 100)
    assert [epoch for epoch, _ in pieces] == [0, 1]
    assert [len(samples) for _, samples in pieces] == [3, 1]


def test_other_facts_have_another_folder(tmp_path):
    one, other = ({"weights": {"sha256": name}, "seeds": [0]} for name in "ab")
    folder = state_folder(tmp_path / "bt-100ep.json", one)
    assert folder == state_folder(tmp_path / "bt-100ep.json", dict(one))
    assert folder != state_folder(tmp_path / "bt-100ep.json", other)
    assert folder.parent == tmp_path
    assert folder.name.startswith("bt-100ep.")
    assert folder.name.endswith(".unfinished")
