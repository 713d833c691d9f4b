"""One pretend machine of a test cluster: a process that owns all that starts below it, and takes it along when it ends.

Run as `python -I -S host.py [HOSTNAME [HOSTS]]`, never imported. HOSTNAME and the file that stands for /etc/hosts need
namespaces of its own. It says `ready`, then answers each line of its input (words parted by tabs) by one line:

    start LOG ARGV...    the pid of a new daemon; its output is appended to the file LOG
    run LOG ARGV...      the exit status of a command, after its end
    kill PID             SIGKILL to a daemon started here: `killed`, or `gone` where it had ended already

At the end of its input, or when its parent is gone, all its descendants get SIGKILL, then it ends. Slurm's step daemons
fork twice to become nobody's children; as a "child subreaper" this process inherits them, so it need only ever signal
children of its own. The kernel keeps a child's pid until its parent has asked after it: no such pid names a stranger.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, MS_BIND = 1, 36, 0x1000  # linux/prctl.h, linux/mount.h
LIBC = ctypes.CDLL(None, use_errno=True)


def start(log: str, *argv: str) -> int:
    """Returns the pid of a new process, which gets SIGKILL when this one ends, however that comes about."""
    me = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # else jobs inherit what Python and this process ignore
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execv(argv[0], argv)
    finally:
        os._exit(127)


def children() -> list[int]:
    """Returns the pids of this process's children, inherited ones too."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 (importing pathlib takes longer than all the rest)
        try:
            with open(f"/proc/{name}/stat") as file:  # noqa: PTH123
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.append(int(name))
    return found


def kill_all() -> None:
    """SIGKILL to the children, then to those that become ours when they die, until none is left."""
    while True:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def answer(verb: str, words: list[str], daemons: set[int]) -> str:
    """Does what one line asks for."""
    if verb == "start":
        pid = start(*words)
        daemons.add(pid)
        return str(pid)
    if verb == "run":
        return str(os.waitstatus_to_exitcode(os.waitpid(start(*words), 0)[1]))
    assert verb == "kill"
    pid = int(words[0])
    if pid not in daemons:
        return "gone"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    daemons.remove(pid)
    return "killed"


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    if len(sys.argv) > 1:
        socket.sethostname(sys.argv[1])
    if len(sys.argv) > 2 and LIBC.mount(sys.argv[2].encode(), b"/etc/hosts", None, ctypes.c_ulong(MS_BIND), None):
        sys.exit(f"cannot mount {sys.argv[2]}: {os.strerror(ctypes.get_errno())}")
    parent, daemons = os.getppid(), set()
    print("ready", flush=True)
    while os.getppid() == parent:
        if select.select([0], [], [], 0.1)[0]:
            line = os.read(0, 4096).decode().rstrip("\n")  # the other end waits for each answer, so this is one line
            if not line:
                break
            verb, *words = line.split("\t")
            print(answer(verb, words, daemons), flush=True)
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                daemons.discard(pid)
        except ChildProcessError:
            pass
    kill_all()


if __name__ == "__main__":
    main()
