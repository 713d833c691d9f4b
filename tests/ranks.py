"""Runs a function on several gloo ranks, each a fresh process, and returns what each returned."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.multiprocessing


def run_ranks(function: Callable[..., Any], size: int, *args: Any) -> list[Any]:
    """Returns [function(world, *args) of rank 0, of rank 1, ...]; the function must be importable by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _one, args=(size, port, folder, function, args), nprocs=size, start_method="spawn"
        )
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(size)]


def _one(rank: int, size: int, port: int, folder: str, function: Callable[..., Any], args: tuple) -> None:
    import torch

    from parallel import start_world

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    world = start_world("cpu")
    world.limit_waits(timeout_min=2)
    try:
        result = function(world, *args)
        (Path(folder) / str(rank)).write_bytes(pickle.dumps(result))
    finally:
        world.stop()
