"""What is asked of Slurm: flags, then the user's file, then defaults; nothing of a site stands in the source.

The file is $SSL_SLURM, else ~/.config/ssl-pretraining/slurm.toml: flags by name, such as

    partition = "gpu"
    gpus_per_node = 8
    time = "2-00:00:00"
    setup = ["module load cuda"]
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .verdict import LEAD_S, MAX_RESTARTS

USER_FILE = Path("~/.config/ssl-pretraining/slurm.toml")


def _flag(default: Any, text: str, **options: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **options})


@dataclass(frozen=True)
class Request:
    """The resources of one job and what to do around it."""

    nodes: int = _flag(1, "number of nodes")
    gpus_per_node: int = _flag(1, "GPUs of each node, one rank each; 0: ranks on CPUs")
    tasks_per_node: int = _flag(0, "ranks of each node, where they have no GPU (0: as many as GPUs, at least 1)")
    cpus_per_gpu: int = _flag(8, "CPUs of each rank: the data workers live there")
    time: str = _flag("24:00:00", "limit of one start: minutes, HH:MM:SS or D-HH:MM:SS; the run goes on in the next")
    mem: str | None = _flag(None, "memory of each node, such as 200G")
    partition: str | None = _flag(None, "partition")
    account: str | None = _flag(None, "account")
    qos: str | None = _flag(None, "quality of service")
    constraint: str | None = _flag(None, "node feature")
    reservation: str | None = _flag(None, "reservation")
    exclude: str | None = _flag(None, "nodes to leave out")
    mail: str | None = _flag(None, "address that hears of the end and of failures")
    comment: str | None = _flag(None, "comment")
    job_name: str | None = _flag(None, "name in the queue; default: the recipe and the run folder's name")
    setup: tuple[str, ...] = _flag(
        (), "shell line to run before the ranks start, such as 'module load cuda'; repeatable"
    )
    container: str | None = _flag(
        None, "Apptainer image that the training runs in, with its python3; what watches over it stays outside"
    )
    python: str | None = _flag(None, "Python of the ranks; default: the one that submits")
    lead: int = _flag(LEAD_S, "seconds before the time limit at which the run is told; keep --timeout-min below it")
    max_restarts: int = _flag(MAX_RESTARTS, "starts after which the job is not requeued any more")
    parallel: int = _flag(0, "members of a sweep that run at once (0: all)")

    @property
    def tasks(self) -> int:
        """Ranks of each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Ranks of the job."""
        return self.nodes * self.tasks

    def check(self) -> None:
        """Raises:
        ValueError: a value that cannot be, with what would be right.
        """
        for name in ("nodes", "cpus_per_gpu", "lead"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} should be at least 1")
        for name in ("gpus_per_node", "tasks_per_node", "max_restarts", "parallel"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} should not be negative")
        if self.gpus_per_node and self.tasks_per_node not in (0, self.gpus_per_node):
            raise ValueError(
                f"--tasks-per-node {self.tasks_per_node} does not fit --gpus-per-node {self.gpus_per_node}: every rank "
                "has one GPU, so leave it out"
            )
        limit = minutes(self.time) * 60
        if self.lead >= limit:
            raise ValueError(f"--lead {self.lead} s should be shorter than --time {self.time}, which is {limit} s")


def minutes(text: str) -> int:
    """Returns a Slurm time limit in whole minutes, rounded up: "90", "24:00:00", "2-12", "2-12:30:00".

    Raises:
        ValueError: another form.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise ValueError(f"--time {text!r} is none of MINUTES, HH:MM:SS, DAYS-HH or DAYS-HH:MM:SS")
    days, first, second, third = (None if part is None else int(part) for part in match.groups())
    assert first is not None
    if days is not None or third is not None:  # days-hours[:minutes[:seconds]], or hours:minutes:seconds
        seconds = ((days or 0) * 24 + first) * 3600 + (second or 0) * 60 + (third or 0)
    else:  # minutes[:seconds]
        seconds = first * 60 + (second or 0)
    if seconds < 60:
        raise ValueError(f"--time {text!r} is shorter than a minute, which is Slurm's unit")
    return -(-seconds // 60)


def add_flags(parser: argparse.ArgumentParser, user: Mapping[str, Any]) -> None:
    """Adds a flag for each field of `Request`; its default is the user's, else ours."""
    group = parser.add_argument_group("Slurm")
    for field in dataclasses.fields(Request):
        default = user.get(field.name, field.default)
        options: dict[str, Any] = {
            "type": int if field.type == "int" else str,
            "metavar": "N" if field.type == "int" else "X",
        }
        if field.name == "setup":
            options |= {"action": "append"}
            default = None
        shown = "" if default in (None, (), "", 0) else f" (default: {default})"
        text = field.metadata["help"].replace("%", "%%") + shown
        group.add_argument(f"--{field.name.replace('_', '-')}", default=default, help=text, **options)


def from_flags(args: argparse.Namespace, user: Mapping[str, Any]) -> Request:
    """Returns the request that the parsed flags make, checked.

    Raises:
        ValueError: as `Request.check`.
    """
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(Request)}
    values["setup"] = tuple(args.setup if args.setup is not None else user.get("setup", ()))
    request = Request(**values)
    request.check()
    return request


def user_defaults(env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Returns the user's own defaults.

    Raises:
        ValueError: the file is not TOML, or holds something that is no flag.
    """
    named = env.get("SSL_SLURM")
    path = Path(named) if named else USER_FILE.expanduser()
    if not path.is_file():
        if named:
            raise ValueError(f"SSL_SLURM={named}: no such file")
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    fields = {field.name: field for field in dataclasses.fields(Request)}
    for name, value in values.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(fields)}"
            raise ValueError(f"{path}: {name} is no flag of slurm.submit: {hint}")
        wanted = "int" if fields[name].type == "int" else "list" if name == "setup" else "str"
        if type(value).__name__ != wanted:
            kind = {"int": "a whole number", "list": "a list of texts", "str": "a text"}[wanted]
            raise ValueError(f"{path}: {name} = {value!r} should be {kind}")
    return values
