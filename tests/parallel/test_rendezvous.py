"""Ranks of a Slurm step meet by a note in the run folder: any free port, nothing stale, nothing left behind."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest

from parallel.rendezvous import FOLDER, key, slurm_store

ENV = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "127.0.0.1"}


def meet(run: Path, rank: int, answers: multiprocessing.SimpleQueue) -> None:
    store = slurm_store(run, ENV, rank, 2, timedelta(seconds=30))
    store.set(f"from {rank}", str(rank))
    answers.put((rank, store.port, store.get(f"from {1 - rank}").decode()))
    store.wait([f"from {1 - rank}"], timedelta(seconds=10))


def both(run: Path) -> set[tuple[int, int, str]]:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    ranks = [context.Process(target=meet, args=(run, rank, answers)) for rank in (1, 0)]
    for process in ranks:
        process.start()
    found = {answers.get() for _ in ranks}
    for process in ranks:
        process.join()
    return found


def test_two_ranks_meet_and_leave_nothing_behind(tmp_path: Path) -> None:
    (rank_a, port_a, from_b), (rank_b, port_b, from_a) = sorted(both(tmp_path / "run"))
    assert (rank_a, rank_b, from_a, from_b) == (0, 1, "0", "1")
    assert port_a == port_b
    assert list((tmp_path / "run").iterdir()) == []


def test_the_note_of_an_earlier_start_is_not_read(tmp_path: Path) -> None:
    """A start that was killed while the ranks met leaves its note; it names a port that nobody serves."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    stale = folder / key({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0", "SLURM_STEP_ID": "1"})
    stale.write_text("127.0.0.1 9")
    assert len(both(tmp_path)) == 2
    assert stale.exists()


def test_starts_have_names_of_their_own() -> None:
    job = {"SLURM_JOB_ID": "7"}
    starts = [
        job,
        job | {"SLURM_RESTART_COUNT": "1"},
        job | {"SLURM_STEP_ID": "1"},
        {"SLURM_JOB_ID": "8"},
    ]
    assert len({key(env) for env in starts}) == 4


def test_a_note_that_does_not_come_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all nodes see"):
        slurm_store(tmp_path, ENV, 1, 2, timedelta(seconds=0.3))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="cannot be written"):
        slurm_store(tmp_path / "file", ENV, 0, 2, timedelta(seconds=5))
