"""Who we are among the processes that train together: from torchrun, from Slurm's srun, or alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among the others: rank in [0, size), its device, and exchanges that are not part of a gradient."""

    rank: int
    size: int
    device: torch.device
    control: Any = None  # a gloo group: agreements are made on the host and never wait for a GPU

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0

    def highest(self, value: int) -> int:
        """Returns the highest `value` of all ranks: how they agree on the step at which all of them leave."""
        if self.size == 1:
            return value
        message = torch.tensor(value)
        dist.all_reduce(message, dist.ReduceOp.MAX, group=self.control)
        return int(message)

    def from_main(self, value: Any) -> Any:
        """Returns rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Returns the `value` of every rank, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def stop(self) -> None:
        """Leaves the group; safe to call more than once."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def start_world(device: str = "auto", timeout_min: float = 10.0) -> World:
    """Returns this process's `World`, after joining the others if torchrun or srun started several.

    Args:
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        timeout_min: minutes after which a collective that waits for a dead rank gives up. Keep it below the lead of the
            scheduler's signal, so that a run whose peer died still ends by itself.

    Raises:
        ValueError: a GPU was asked for and there is none, or more ranks than GPUs on this node.
    """
    rank, size, local_rank = _place(os.environ)
    place = _device(device, local_rank)
    if size == 1:
        return World(rank=0, size=1, device=place)
    timeout = timedelta(minutes=timeout_min)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", rank=rank, world_size=size, timeout=timeout)
    return World(rank, size, place, dist.new_group(backend="gloo", timeout=timeout))


def _place(env: Any) -> tuple[int, int, int]:
    """Returns (rank, number of ranks, rank on this node) from the launcher's variables."""
    if "RANK" in env and "WORLD_SIZE" in env:  # torchrun
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    # Inside a plain sbatch script or salloc shell SLURM_NTASKS is set although nobody started the tasks: only srun
    # sets the step's.
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:
        env.setdefault("MASTER_ADDR", _first_host(env["SLURM_STEP_NODELIST"]))
        env.setdefault("MASTER_PORT", str(20000 + int(env["SLURM_JOB_ID"]) % 40000))
        return int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"])
    return 0, 1, 0


def _first_host(nodes: str) -> str:
    command: Sequence[str] = ("scontrol", "show", "hostnames", nodes)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _device(asked: str, local_rank: int) -> torch.device:
    if asked not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {asked!r} is none of 'auto', 'cpu', 'cuda'")
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' was asked for, but torch sees no GPU on this machine: use --device cpu, or a GPU node"
        )
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU of its own: this node shows {torch.cuda.device_count()}; "
            "start at most one process a GPU"
        )
    return torch.device("cuda", local_rank)
