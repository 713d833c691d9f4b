"""The machines of a test cluster, seen from the test: programs, namespaces, and `host_process.py` processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def tool(name: str) -> str:
    """Returns the full path of a program, daemons too, or '' where it is not installed."""
    return shutil.which(name, path=PATH) or ""


@cache
def may_unshare(*kinds: str) -> tuple[str, ...]:
    """Returns the command line that makes these namespaces ("net", "uts", ...), or () where that is not allowed.

    Root makes them outright, others in a user namespace where they stay themselves (as root there, slurmd fails).
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
    words = (tool("unshare"), *user, *(f"--{kind}" for kind in kinds))
    return words if words[0] and subprocess.run([*words, "true"], capture_output=True).returncode == 0 else ()


@cache
def name_is_loopback() -> bool:
    """Whether Slurm, told to listen at the address of the host name, listens on loopback."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    return False


class Host:
    """A `host_process.py` process: `prefix` before its command line, `words` after, `env` for its daemons."""

    def __init__(self, prefix: Sequence[str], words: Sequence[str], env: Mapping[str, str]) -> None:
        script = [sys.executable, "-I", "-S", str(Path(__file__).with_name("host_process.py"))]
        self.process = subprocess.Popen(
            [*prefix, *script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        self.daemon = 0  # pid of the newest

    def ask(self, *words: str | Path) -> str:
        """Returns the answer to a request; without one, the word that it is ready. Raises: RuntimeError if it ended."""
        if words:
            print(*words, sep="\t", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended at {words or 'its start'}")
        return answer

    def start(self, log: Path, *argv: str) -> int:
        """Returns the pid of a daemon that it starts."""
        self.daemon = int(self.ask("start", log, *argv))
        return self.daemon

    def hang_up(self) -> None:
        """Makes it end, without waiting: SIGKILL to all that runs on it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def close(self) -> None:
        """Makes it end and waits, 30 s at most."""
        self.hang_up()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def enter(self, *kinds: str) -> list[str]:
        """Returns the words before a command that is to run in these namespaces of it ("net", "uts", ...)."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return [tool("nsenter"), f"--target={self.process.pid}", *user, *(f"--{kind}" for kind in kinds)]
