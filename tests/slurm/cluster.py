"""A real Slurm for tests: the distribution's own slurmctld, slurmd (one a node) and munged, in a folder, on loopback.

    with Cluster(Path(tempfile.mkdtemp())) as cluster:
        job = cluster.command("sbatch", "--parsable", "--wrap", "srun hostname").strip()
        cluster.wait(job, {"COMPLETED"}, seconds=30)

Each node is a process that takes along all that runs on it, like a machine that loses power (`host_process.py`).
Each node is a process that takes along all that runs on it, as a machine does that loses power (`host_process.py`).
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.slurm.config import Node, write_config
from tests.slurm.host import PATH, Host, may_unshare, name_is_loopback, tool

MAX_FOLDER = 60  # characters: the path of a step's socket adds up to 45, and the kernel takes 107
CONTROL = "control"  # the machine of slurmctld and munged
# Set by an outer job or its launcher; a test that itself runs in a job would speak to the wrong cluster.
FOREIGN = re.compile(
    r"(SLURMD?|SBATCH|SRUN|SALLOC|SQUEUE|SCANCEL|SCONTROL|SINFO|TORCHELASTIC|MASTER|PMI|PMIX|OMPI)_"
    r"|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)$"
)


class Cluster:
    """A Slurm cluster in a folder of its own: up after `start()` or at `with`, and all of it gone after `stop()`.

    Partitions: `low` (default; preempted by requeueing, after `grace`) and `high` (never preempted, preempts `low`).
    No accounting, so no `sacct`; no cgroups; Slurm looks at time limits every 30 s or so. When the process that started
    it dies, however it dies, the cluster follows within a second.

    folder: new or empty, a path of 60 characters at most. Logs are in folder/log and stay; the rest goes at `stop()`.
    nodes, cpus, gpus, memory_mb: how many nodes, and what each claims to have, whatever the machine has; memory in MB.
    grace: seconds from the notice of a preemption to its end (GraceTime), but the end is not before kill_wait + 10
        (MessageTimeout, lower it in `extra`) has passed; 0: no notice.
    preempt_signal: the notice is the job's `--signal` (preempt_send_user_signal) instead of SIGTERM.
    kill_wait: seconds from SIGTERM to SIGKILL; Slurm takes 5 at least.
    cred_expire: seconds that a requeued job waits, 5 at least (for less, Slurm takes its default of 120).
    node_timeout: seconds of silence that make a node DOWN; Slurm takes some 10 to 20 more to see it.
    extra: further lines of slurm.conf.

    Raises: ValueError for a folder path that is too long, or cred_expire below 5.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 2,
        memory_mb: int = 4000,
        grace: int = 10,
        preempt_signal: bool = False,
        kill_wait: int = 5,
        cred_expire: int = 5,
        node_timeout: int = 10,
        extra: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder).absolute()
        if len(str(self.folder)) > MAX_FOLDER:
            raise ValueError(f"folder {self.folder}: over {MAX_FOLDER} characters; take one from tempfile.mkdtemp()")
        if cred_expire < 5:
            raise ValueError(f"cred_expire {cred_expire}: Slurm takes 120 for anything below 5")
        self.nodes = nodes
        self._options: dict[str, Any] = {
            "cpus": cpus,
            "gpus": gpus,
            "memory_mb": memory_mb,
            "grace": grace,
            "preempt_signal": preempt_signal,
            "kill_wait": kill_wait,
            "cred_expire": cred_expire,
            "node_timeout": node_timeout,
            "extra": extra,
        }
        self.inside: list[str] = []  # words before a command that has to run within the cluster's namespaces
        self.env = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        self.env["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self._hosts: dict[str, Host] = {}
        self._locks: list[socket.socket] = []

    @classmethod
    def missing(cls) -> str:
        """Returns why there can be no such cluster on this machine, with the remedy; '' where there can."""
        if not all(map(tool, ("slurmctld", "slurmd", "sbatch", "munged"))):
            return "slurm-wlm is not installed: apt-get install slurm-wlm munge"
        if not name_is_loopback() and not may_unshare("uts"):
            name = socket.gethostname()
            return (
                f"host name {name} is no loopback address and cannot be changed: add '127.0.0.1 {name}' to /etc/hosts"
            )
        return ""

    # ---- life

    def start(self) -> None:
        """Returns when all nodes are idle: a fraction of a second.

        Raises: RuntimeError with the ends of the logs where a daemon ends, or is not ready after 30 s.
        """
        run, log = self.folder / "run", self.folder / "log"
        self.folder.mkdir(exist_ok=True)
        try:
            self._control, self._nodes = self._plan()
            write_config(self.folder, self._control, self._nodes, **self._options)
            for node in (self._control, *self._nodes):
                self._open(node)
            control = self._hosts[CONTROL]
            # --force: munged dislikes folders above of other owners, as all seem in a user namespace; ours is closed
            words = ["--foreground", "--force", f"--key-file={run}/munge.key", f"--socket={run}/munge"]
            words += [f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log", f"--seed-file={run}/munge.seed"]
            pid = control.start(log / "munged.out", tool("munged"), *words)
            self._until(pid, (run / "munge").exists)
            pid = control.start(log / "slurmctld.out", tool("slurmctld"), "-D")
            # clients that are refused would wait for seconds
            self._until(pid, lambda: _listening(pid, self._control.port))
            for node in self._nodes:
                self._slurmd(node)
            self._until(pid, lambda: set(self._states()) == {"idle"})
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGKILL to all that the cluster runs, jobs too, and waits until it is gone. Does nothing the second time."""
        for host in self._hosts.values():
            host.hang_up()
        while self._hosts:
            self._hosts.popitem()[1].close()
        while self._locks:
            self._locks.pop().close()
        for name in ("state", "spool", "run", "dev"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # ---- questions

    def command(
        self,
        *words: str | Path,
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> str:
        """Returns what a command (sbatch, ...) prints. `env` stands for `self.env`; `timeout` in seconds.

        Raises: RuntimeError with its standard error where it fails and `check` is set; subprocess.TimeoutExpired.
        """
        argv = [*self.inside, *map(str, words)]
        done = subprocess.run(argv, cwd=cwd, env=env or self.env, timeout=timeout, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{argv}: exit {done.returncode}\n{done.stderr.strip()}\n{done.stdout.strip()}")
        return done.stdout

    def job(self, job_id: int | str) -> dict[str, str]:
        """Returns the fields of `scontrol show job` (an array: of one of its tasks); {} for a job unknown to Slurm."""
        line = self.command("scontrol", "show", "job", "-o", str(job_id), check=False).partition("\n")[0]
        return dict(word.split("=", 1) for word in re.split(r" (?=[A-Z][\w/:]*=)", line.strip()) if "=" in word)

    def state(self, job_id: int | str) -> str:
        """Returns PENDING, RUNNING, COMPLETED, ..., or GONE for a job unknown to Slurm."""
        return self.job(job_id).get("JobState", "GONE")

    def wait(self, job_id: int | str, states: set[str], seconds: float) -> str:
        """Returns the job's state as soon as it is one of `states`; looks every 0.1 s.

        Raises: TimeoutError after `seconds`, with the job's record and the ends of the logs.
        """
        end = time.monotonic() + seconds
        while (state := self.state(job_id)) not in states:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"job {job_id} is {state}, not {states}, after {seconds} s: {self.job(job_id)}\n{self.logs()}"
                )
            time.sleep(0.1)
        return state

    def node_names(self) -> list[str]:
        """Returns the nodes' names; they resolve."""
        return [f"127.0.0.{11 + i}" for i in range(self.nodes)]

    def logs(self, lines: int = 20) -> str:
        """Returns the last lines of each log."""
        text = [f"Slurm's logs, {self.folder}/log:"]
        for path in sorted((self.folder / "log").glob("*")):
            if path.suffix == ".out" and path.with_suffix(".log").exists():
                continue  # the same lines
            text += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(text)

    # ---- faults

    def kill_node(self, name: str) -> None:
        """Power loss: SIGKILL to the node's slurmd and to every process of its jobs."""
        self._hosts.pop(name).close()

    def stop_daemon(self, name: str) -> None:
        """SIGKILL to the node's slurmd alone; its jobs live on."""
        self._hosts[name].ask("kill", str(self._hosts[name].daemon))

    def start_node(self, name: str) -> None:
        """Starts a node after `kill_node`, or its slurmd after `stop_daemon`, and waits until slurmd listens."""
        node = next(node for node in self._nodes if node.name == name)
        if name not in self._hosts:
            self._open(node)
        pid = self._slurmd(node)
        self._until(pid, lambda: _listening(pid, node.port))

    def set_node(self, name: str, state: str) -> None:
        """Makes a node `down`, or `resume` after that, as an administrator does."""
        self.command("scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test")

    # ---- what another kind of network does otherwise

    def _plan(self) -> tuple[Node, list[Node]]:
        """Returns the machine of slurmctld and the nodes."""
        host = socket.gethostname().partition(".")[0] if name_is_loopback() else "localhost"
        nodes = [Node(name, host, "127.0.0.1", self._port()) for name in self.node_names()]
        return Node(CONTROL, host, "127.0.0.1", self._port()), nodes

    def _open(self, node: Node) -> None:
        """Starts a machine with nothing on it."""
        apart = () if name_is_loopback() else may_unshare("uts")
        host = self._boot(node, apart, [node.host] if apart else [])
        if apart and node.name == CONTROL:
            self.inside = host.enter("uts")

    # ---- the rest

    def _boot(self, node: Node, prefix: Sequence[str], words: Sequence[str]) -> Host:
        env = {
            "PATH": PATH,
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "SLURM_CONF": self.env["SLURM_CONF"],
        }
        host = self._hosts[node.name] = Host(prefix, words, env)
        host.ask()
        return host

    def _slurmd(self, node: Node) -> int:
        log = self.folder / "log" / f"slurmd-{node.name}.out"
        return self._hosts[node.name].start(log, tool("slurmd"), "-D", "-N", node.name)

    def _states(self) -> list[str]:
        return self.command("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False).split()

    def _port(self) -> int:
        """Returns a free port, not one of those for outgoing connections; no other cluster takes it before `stop()`."""
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        while True:
            port = random.randrange(10000, first if first > 12000 else 60000)
            self._locks.append(socket.socket())
            with socket.socket() as probe, contextlib.suppress(OSError):
                self._locks[-1].bind(("127.77.77.77", port))
                probe.bind(("127.0.0.1", port))
                return port
            self._locks.pop().close()

    def _until(self, pid: int, ready: Callable[[], bool]) -> None:
        """Waits for what the daemon `pid` is to bring about, 30 s at most."""
        end = time.monotonic() + 30
        while not ready():
            if time.monotonic() > end or not Path(f"/proc/{pid}").exists():
                raise RuntimeError(f"the cluster does not come up\n{self.logs()}")
            time.sleep(0.01)


def _listening(pid: int, port: int) -> bool:
    """Whether anybody listens on this TCP port in the network namespace of a process."""
    with contextlib.suppress(OSError):
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()]
        return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows[1:])
    return False
