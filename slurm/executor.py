"""What is asked of Slurm, as submitit takes it."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import Request, minutes


def require_slurm() -> None:
    """Raises:
    ValueError: there is no Slurm here.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ValueError(
            "there is no Slurm here: sbatch was not found. On one machine: python pretrain.py, or slurm.drill"
        )


def text(executor: Any, count: int) -> str:
    """Returns the sbatch text of `count` members, as submitit will write it."""
    if count > 1:
        executor.parameters["map_count"] = count
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def make_executor(
    folder: Path,
    name: str,
    request: Request,
    count: int,
    dependency: str = "",
    teardown: Sequence[str] = (),
) -> Any:
    """Returns a submitit executor with all that is asked of Slurm.

    Args:
        folder: for its files and the logs.
        name: of the job, if the request has none.
        count: of the members of the array; 1: no array.
        dependency: such as "afterok:12".
        teardown: shell lines that follow srun.
    """
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # a dry run needs no srun; else `require_slurm` has asked

    srun = ["--kill-on-bad-exit=1", "--wait=0"]
    srun += [f"--cpus-per-task={request.cpus_per_gpu}"]  # srun does not take it from sbatch since Slurm 22.05
    executor = Executor(folder=folder, python=shlex.quote(request.python or sys.executable))
    extra = {"requeue": True, "time": request.time, "mem": request.mem, "reservation": request.reservation}
    if request.mail:
        extra |= {"mail-user": request.mail, "mail-type": "END,FAIL,REQUEUE"}
    if dependency:
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    executor.update_parameters(
        job_name=re.sub(r"\s+", " ", request.job_name or name)[:100],
        time=minutes(request.time),
        nodes=request.nodes,
        ntasks_per_node=request.tasks,
        cpus_per_task=request.cpus_per_gpu,
        gpus_per_node=request.gpus_per_node or None,
        signal_delay_s=request.lead,
        setup=list(request.setup) or None,
        teardown=list(teardown) or None,
        srun_args=srun,
        wckey=None,  # submitit's own; a site that checks wckeys refuses it
        array_parallelism=request.parallel or count,
        additional_parameters={key: value for key, value in extra.items() if value is not None},
        **{
            key: getattr(request, key)
            for key in ("partition", "account", "qos", "constraint", "exclude", "comment")
            if getattr(request, key) is not None
        },
    )
    return executor
