"""Who we are is read from the launcher's variables; what cannot work is refused."""

from __future__ import annotations

import pytest
import torch

from parallel import World, start_world
from parallel.start import _place
from tests.ranks import run_ranks


def test_alone() -> None:
    assert _place({}) == (0, 1, 0)


def test_torchrun() -> None:
    assert _place({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == (5, 8, 1)


def test_a_shell_inside_an_allocation_is_alone() -> None:
    """sbatch and salloc set SLURM_NTASKS although nobody has started the tasks."""
    assert _place({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}) == (0, 1, 0)


def test_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallel.start._first_host", lambda nodes: "n1")
    env = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": "12",
    }
    assert _place(env) == (3, 4, 1)
    assert env["MASTER_ADDR"] == "n1"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'gpu'"):
        start_world("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="--device cpu"):
        start_world("cuda")


def exchanges(world: World) -> tuple[int, str, list[int]]:
    return world.highest(world.rank), world.from_main(f"from {world.rank}"), world.collect(world.rank * 10)


def test_ranks_agree() -> None:
    assert run_ranks(exchanges, 2) == [(1, "from 0", [0, 10])] * 2
    assert exchanges(World(0, 1, torch.device("cpu"))) == (0, "from 0", [0])
