"""Who we are among the processes that train together: from torchrun, from Slurm's srun, or alone."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Generator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from .rendezvous import slurm_store

# Until all ranks are ready to train: nodes that read their libraries from a cold disk start minutes apart.
STARTUP_TIMEOUT = timedelta(minutes=10)


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

    @contextmanager
    def together(self, *kinds: type[Exception]) -> Generator[None]:
        """Within, every rank does a share of its own; after it, an error of one rank is raised on all of them.

        So none is left waiting for a rank that found bad input. Nothing within may wait for another rank.

        Args:
            kinds: of error, each made of its message; without any: ValueError.
        """
        kinds = kinds or (ValueError,)
        own: Exception | None = None
        try:
            yield
        except kinds as error:
            own = error
        kind = next((kind for kind in kinds if isinstance(own, kind)), None)
        first = next((found for found in self.collect((kind, str(own)) if kind else None) if found), None)
        if own is not None:
            raise own
        if first is not None:
            raise first[0](first[1])

    def data_parallel(self, module: nn.Module, compress: bool = False) -> nn.Module:
        """Returns `module` with gradients that are averaged over the ranks while backward goes on; alone, itself.

        Buffers are not sent around: BatchNorm's are equal on all ranks already. Gradients lie where they are
        exchanged, so there is no second copy of them.

        Args:
            compress: exchange them in bfloat16: half the bytes, each rank's share and each sum rounded to 8 bits.
        """
        if self.size == 1:
            return module
        options = inspect.signature(DistributedDataParallel.__init__).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"  # its older name
        wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True, **{name: False})  # ty: ignore[invalid-argument-type]
        if compress:
            wrapped.register_comm_hook(None, bf16_compress_hook)
        return wrapped

    def limit_waits(self, timeout_min: float) -> None:
        """From now on a collective that waits for a dead rank gives up after that many minutes (before: 10).

        Call it on every rank when all of them are ready to train.
        """
        if self.size > 1:
            for group in (dist.group.WORLD, self.control):
                _set_timeout(timedelta(minutes=timeout_min), group)

    def stop(self) -> None:
        """Leaves the group; safe to call more than once."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def start_world(device: str = "auto", run: Path | None = None) -> World:
    """Returns this process's `World`, after joining the others if torchrun or srun started several.

    Args:
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        run: the run folder, which all ranks see: under srun they meet by a note in it. None: only alone or torchrun.

    Raises:
        ValueError: a GPU was asked for and there is none, the tasks do not fit the node's GPUs, or ranks that cannot
            meet.
    """
    seat = find_seat(os.environ)
    place = _device(device, seat)
    if seat.size == 1:
        return World(rank=0, size=1, device=place)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    backend = "nccl" if place.type == "cuda" else "gloo"
    if seat.launcher == "slurm":
        if run is None:
            raise ValueError(f"srun started {seat.size} tasks of what runs alone: leave srun out, or ask for one task")
        store = slurm_store(run, os.environ, seat.rank, seat.size, STARTUP_TIMEOUT)
        dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.size, timeout=STARTUP_TIMEOUT)
    else:
        dist.init_process_group(backend, rank=seat.rank, world_size=seat.size, timeout=STARTUP_TIMEOUT)
    return World(seat.rank, seat.size, place, dist.new_group(backend="gloo", timeout=STARTUP_TIMEOUT))


class Seat(NamedTuple):
    """Where the launcher put this process: rank in [0, size), and in [0, local_size) on its node."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str  # "torchrun", "slurm" or "none"


def find_seat(env: MutableMapping[str, str]) -> Seat:
    """Returns this process's seat from the launcher's variables.

    Raises:
        ValueError: a variable is missing or no number.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        local = _number(env, "LOCAL_RANK", "0"), _number(env, "LOCAL_WORLD_SIZE", "1")
        return Seat(_number(env, "RANK"), _number(env, "WORLD_SIZE"), *local, "torchrun")
    # Inside a plain sbatch script or salloc shell SLURM_NTASKS is set although nobody started the tasks: only srun
    # sets the step's.
    if _number(env, "SLURM_STEP_NUM_TASKS", "1") > 1 and "SLURM_PROCID" in env:
        node = _number(env, "SLURM_NODEID", "0")
        sizes = tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE", env["SLURM_STEP_NUM_TASKS"]))
        if node >= len(sizes):
            raise ValueError(
                f"SLURM_NODEID {node} is not among the {len(sizes)} nodes of SLURM_STEP_TASKS_PER_NODE="
                f"{env.get('SLURM_STEP_TASKS_PER_NODE')}: start the ranks by one srun of the whole job"
            )
        place = _number(env, "SLURM_PROCID"), _number(env, "SLURM_STEP_NUM_TASKS")
        return Seat(*place, _number(env, "SLURM_LOCALID"), sizes[node], "slurm")
    return Seat(0, 1, 0, 1, "none")


def tasks_per_node(text: str) -> list[int]:
    """Returns the tasks of each node from Slurm's short form: "2(x3),1" -> [2, 2, 2, 1].

    Raises:
        ValueError: another form.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"tasks a node {text!r} is not of Slurm's form, such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _number(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = env.get(name, default)
    if text is None or not text.strip().isdigit():
        raise ValueError(
            f"the launcher's variable {name} is {text!r}: it should be a number; start by torchrun or srun"
        )
    return int(text)


def _set_timeout(timeout: timedelta, group: Any) -> None:
    """Public in newer torch, private in 2.11."""
    from torch.distributed import distributed_c10d

    module, name = (dist, "set_timeout") if hasattr(dist, "set_timeout") else (distributed_c10d, "_set_pg_timeout")
    getattr(module, name)(timeout, group)


def _device(asked: str, seat: Seat) -> torch.device:
    if asked not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {asked!r} is none of 'auto', 'cpu', 'cuda'")
    if asked == "auto" and not torch.cuda.is_available() and os.environ.get("SLURM_GPUS_ON_NODE"):
        # Not a slow run on CPUs by mistake.
        raise ValueError(
            f"the job has {os.environ['SLURM_GPUS_ON_NODE']} GPUs on this node, but torch sees none: check the driver "
            "and the torch build there; --device cpu trains without"
        )
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' was asked for, but torch sees no GPU on this machine: use --device cpu, or a GPU node"
        )
    return torch.device("cuda", gpu_of(seat, torch.cuda.device_count(), os.environ))


def gpu_of(seat: Seat, visible: int, env: Mapping[str, str]) -> int:
    """Returns which of the `visible` GPUs is this process's.

    Raises:
        ValueError: more tasks on this node than GPUs, or fewer (a whole job on one of eight GPUs is a mistake).
    """
    # With --gpus-per-task Slurm shows each task only its own.
    if seat.launcher == "slurm" and visible == 1 and ("SLURM_GPUS_PER_TASK" in env or seat.local_size == 1):
        return 0
    if seat.local_rank >= visible:
        raise ValueError(
            f"local rank {seat.local_rank} has no GPU of its own: {seat.local_size} tasks on this node, which shows "
            f"{visible}; start one task a GPU (srun --ntasks-per-node={visible}, torchrun --nproc-per-node {visible})"
        )
    if seat.launcher == "slurm" and seat.local_size != visible:
        raise ValueError(
            f"this node has {visible} GPUs for {seat.local_size} tasks of the {seat.size}: ask for as many tasks as "
            f"GPUs (--ntasks-per-node={visible} --gpus-per-node={visible})"
        )
    return seat.local_rank
