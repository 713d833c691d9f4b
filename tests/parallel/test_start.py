"""Who we are is read from the launcher's variables; what cannot work is refused."""

from __future__ import annotations

import time

import pytest
import torch

from parallel import World, start_world
from parallel.start import Seat, find_seat, gpu_of, tasks_per_node
from tests.ranks import run_ranks

SRUN = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "12",
}


def test_alone() -> None:
    assert find_seat({}) == (0, 1, 0, 1, "none")


def test_torchrun() -> None:
    env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert find_seat(env) == (5, 8, 1, 4, "torchrun")


def test_a_shell_inside_an_allocation_is_alone() -> None:
    """sbatch and salloc set SLURM_NTASKS although nobody has started the tasks."""
    assert find_seat({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}).size == 1


def test_srun() -> None:
    assert find_seat(SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,2"}) == (3, 5, 0, 2, "slurm")


@pytest.mark.parametrize(
    ("text", "counts"), [("4", [4]), ("2(x3)", [2, 2, 2]), ("2(x3),1", [2, 2, 2, 1]), ("8,4(x2)", [8, 4, 4])]
)
def test_slurms_short_form(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


@pytest.mark.parametrize("text", ["", "two", "2(x", "2(x3),", "2(xy)"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tasks a node"):
        tasks_per_node(text)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one'"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "5"}, "SLURM_NODEID 1"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "SLURM_LOCALID is None"),
    ],
)
def test_variables_that_cannot_be_are_named(env: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_seat(env)


@pytest.mark.parametrize(
    ("seat", "visible", "env", "gpu"),
    [
        (Seat(0, 1, 0, 1, "none"), 8, {}, 0),  # alone on a big machine: the first
        (Seat(3, 4, 3, 4, "torchrun"), 8, {}, 3),
        (Seat(9, 16, 1, 8, "slurm"), 8, {}, 1),
        (Seat(9, 16, 1, 8, "slurm"), 1, {"SLURM_GPUS_PER_TASK": "1"}, 0),  # each task sees its own only
        (Seat(1, 2, 0, 1, "slurm"), 1, {}, 0),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(seat: Seat, visible: int, env: dict[str, str], gpu: int) -> None:
    assert gpu_of(seat, visible, env) == gpu


@pytest.mark.parametrize(
    ("seat", "visible", "words"),
    [
        (Seat(8, 16, 8, 16, "slurm"), 8, "local rank 8 has no GPU.*shows 8.*--ntasks-per-node=8"),
        (Seat(0, 2, 0, 1, "slurm"), 8, "8 GPUs for 1 tasks.*--ntasks-per-node=8"),
        (Seat(1, 2, 1, 2, "slurm"), 1, "local rank 1 has no GPU"),
        (Seat(2, 3, 2, 3, "torchrun"), 2, "local rank 2 has no GPU"),
    ],
)
def test_tasks_that_do_not_fit_the_gpus_are_refused(seat: Seat, visible: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gpu_of(seat, visible, {})


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'gpu'"):
        start_world("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="--device cpu"):
        start_world("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_job_with_gpus_that_torch_does_not_see_is_not_run_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    with pytest.raises(ValueError, match="8 GPUs on this node, but torch sees none"):
        start_world()
    assert start_world("cpu").device.type == "cpu"


def exchanges(world: World) -> tuple[int, str, list[int]]:
    return world.highest(world.rank), world.from_main(f"from {world.rank}"), world.collect(world.rank * 10)


def test_ranks_agree() -> None:
    assert run_ranks(exchanges, 2) == [(1, "from 0", [0, 10])] * 2
    assert exchanges(World(0, 1, torch.device("cpu"))) == (0, "from 0", [0])


def wait_for_a_silent_rank(world: World) -> float:
    """Returns the seconds until a collective with a rank that has stopped answering fails."""
    world.limit_waits(2 / 60)
    if world.rank == 1:
        time.sleep(6)
        return 0.0
    began = time.monotonic()
    with pytest.raises(RuntimeError):
        world.highest(0)
    return time.monotonic() - began


def test_a_silent_rank_is_waited_for_no_longer_than_asked() -> None:
    assert 1.5 < run_ranks(wait_for_a_silent_rank, 2)[0] < 5
