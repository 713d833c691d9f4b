"""How a run is asked to stop, and the exit codes that say how it ended. Standard library only.

A scheduler announces the end of a job by a signal to every process of it, data workers included. With a Python handler
each of them would react, and the handler would run only when the C call in progress returns (a collective that waits
for a dead peer: many minutes). So the signals are blocked instead, and the training loop asks between two steps whether
one has come. A signal that comes again, while the checkpoint is being written, then simply does nothing.

    from training import stop
    stop.block()                       # before torch: its threads and the workers inherit the mask
    import torch
    ...
    if stop.pending(): ...             # between steps: save, leave with STOPPED_EXIT
"""

import contextlib
import os
import signal
from types import FrameType

# USR1, USR2: the notices that Slurm and submitit are told to send. TERM: preemption, scancel, torchrun, `kill`.
SIGNALS = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM})

BAD_INPUT_EXIT = 2  # as argparse and every Unix tool: the command is wrong, the same again fails again
NON_FINITE_EXIT = 70  # EX_SOFTWARE: the loss left the numbers; the same again does too, so nothing should requeue it
# EX_TEMPFAIL: saved, run the same command again. Not 0: Slurm takes a job that ends with 0 in the grace period of a
# preemption for completed and never starts it again.
STOPPED_EXIT = 75


class Stopped(Exception):  # noqa: N818  (stopping is no error)
    """A signal asked for it, and what was done so far is saved if the program says so: the same command goes on."""


_interrupts: list[str] = []  # a Ctrl-C that `pending` has not reported yet


def block() -> None:
    """Hold SIGUSR1, SIGUSR2 and SIGTERM back in this thread and in all threads and processes it starts from now on.

    Call it before importing torch (or numpy): a thread that is there already still takes the signal, and the whole
    process dies of it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock() -> None:
    """Let the signals through again: for a child process that others must be able to end, as its `preexec_fn`.

    In the process that called `block`, a signal held back takes effect here, which ends the process.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def pending() -> str | None:
    """The name of a stop signal that has come since the last call ("SIGTERM", "SIGINT", ...), or None.

    It is taken: the next call reports the next one. Only the main thread of the main process asks.
    """
    if _interrupts:
        return _interrupts.pop()
    waiting = signal.sigpending() & SIGNALS
    # Nobody else takes signals, so this does not wait. (sigtimedwait would do both at once; macOS has none.)
    return signal.Signals(signal.sigwait(waiting)).name if waiting else None


def heed() -> None:
    """Ends what keeps nothing in between, if a signal has asked for it.

    Raises:
        Stopped: one has.
    """
    if notice := pending():
        raise Stopped(f"stopped by {notice}: run the same command again")


def watch_interrupt() -> None:
    """From now on the first Ctrl-C asks the run to stop after its step, as a signal does; the second raises at once.

    The second raises KeyboardInterrupt wherever the program is. Does nothing where SIGINT is ignored, as in a job that
    a shell started in the background. Main thread only.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    pressed = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        _interrupts.append("SIGINT")
        if is_first_rank():
            with contextlib.suppress(OSError):  # not print: the handler may have interrupted one
                os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C again to leave at once\n")

    signal.signal(signal.SIGINT, on_interrupt)


def in_worker(worker_id: int = 0) -> None:
    """What a data worker does about signals: nothing. Give it to a DataLoader as `worker_init_fn`.

    A terminal's Ctrl-C and a scheduler's signals reach workers too; they must go on serving until the main process has
    made its last step, and end when their loader tells them to. `Process.terminate()` has no effect on them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    block()


def is_first_rank() -> bool:
    """Whether this process is the one of the job that talks to the user; known before anything is imported."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
