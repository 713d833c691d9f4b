"""Ranks of a Slurm step meet by a note in the run folder: any free port, nothing stale, nothing left behind."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from parallel.rendezvous import FOLDER, _write, key, slurm_store

ENV = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "127.0.0.1"}


def exchange(store: TCPStore, rank: int, word: str) -> str:
    """Returns the other rank's word; rank 0, which serves both, leaves last."""
    limit = timedelta(seconds=60)
    store.set(f"word of {rank}", word)
    store.wait([f"word of {1 - rank}"], limit)
    found = store.get(f"word of {1 - rank}").decode()
    if rank == 0:
        store.wait(["1 has read"], limit)
    else:
        store.set("1 has read", "")
    return found


def meet(run: Path, rank: int, answers: multiprocessing.SimpleQueue) -> None:
    store = slurm_store(run, ENV, rank, 2, timedelta(seconds=60))
    answers.put((rank, store.port, exchange(store, rank, str(rank))))


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


def test_fifty_jobs_at_once_do_not_clash(tmp_path: Path) -> None:
    """Jobs of one node, and starts of one run folder: each pair of ranks finds its own."""

    def rank_of(job: int, rank: int) -> tuple[int, str]:
        env = ENV | {"SLURM_JOB_ID": str(job)}
        store = slurm_store(tmp_path / f"run{job % 5}", env, rank, 2, timedelta(seconds=60))
        return store.port, exchange(store, rank, str(job))

    with ThreadPoolExecutor(100) as pool:
        ranks = [[pool.submit(rank_of, job, rank) for rank in (0, 1)] for job in range(50)]
        found = [[rank.result() for rank in pair] for pair in ranks]
    assert all(pair[0] == pair[1] == (pair[0][0], str(job)) for job, pair in enumerate(found))


def test_a_folder_that_another_start_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making it and writing into it: the other's ranks have met, and found it empty."""
    make, removed = Path.mkdir, []

    def made_and_removed(folder: Path, **options: bool) -> None:
        make(folder, **options)
        if len(removed) < 3:
            removed.append(folder)
            folder.rmdir()

    monkeypatch.setattr(Path, "mkdir", made_and_removed)
    _write(tmp_path / FOLDER / "note", "host 1")
    assert len(removed) == 3
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["note"]


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
