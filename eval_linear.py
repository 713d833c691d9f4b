"""Evaluate a frozen encoder: linear probe by a named protocol, and weighted k-NN; zero-shot and retrieval by captions.

    python eval_linear.py --run RUN --data DIR
    python eval_linear.py --weights resnet50.pth --backbone resnet50 --data IMAGENET --protocol bt-100ep
    python eval_linear.py --run RUN --zero-shot imagenet --data IMAGENET --retrieval PAIRS --split test
    python eval_linear.py --run RUN --data IMAGENET --subset 1% --subset-file 1percent.txt --finetune bt
    torchrun --nproc-per-node 8 -- eval_linear.py ...        on several GPUs, or by srun: the same numbers as on one

Prints a table and writes it as JSON, a probe's with pictures beside it. Exit codes: 0 done; 2 bad input, found before
anything was computed or overwritten; 74 the result was printed, but it or its pictures could not be written; 75 stopped
by a signal after saving: run the same command again.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in pretrain.py: threads that spin starve the data workers

from evaluation.command import parse
from evaluation.flags import Arguments
from evaluation.protocols import Protocol, find
from training import stop

if TYPE_CHECKING:
    from evaluation.results import Part
    from parallel import World

BAD_INPUT_EXIT, NOT_WRITTEN_EXIT = 2, 74
WAIT_MIN = 24 * 60  # for the rank that trains heads alone; one that died is noticed at once, by its closed connection


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    try:
        args = parse(argv, __doc__)
        protocol = find(args.probe, args.method.epochs) if args.probe else None
        world = start(args)
    except ValueError as error:  # here each rank speaks for itself: the others may not know
        if stop.is_first_rank() or "SLURM_PROCID" in os.environ:
            complain(str(error))
        return BAD_INPUT_EXIT
    try:
        return evaluate_all(args, protocol, world)
    except ValueError as error:
        if world.is_main:
            complain(str(error))
        return BAD_INPUT_EXIT
    except stop.Stopped as stopped:
        if world.is_main:
            complain(str(stopped))
        return stop.STOPPED_EXIT
    finally:
        world.stop()


def start(args: Arguments) -> World:
    """Returns this process among those that evaluate together.

    Raises:
        ValueError: they cannot meet, or the device is not there.
    """
    from parallel import start_world  # torch is imported after the command line is understood: --help is instant

    run = args.subject.run
    if run is not None and not run.is_dir():  # ranks meet in it: a wrong name should not become a folder
        raise ValueError(f"--run {run}: no such folder")
    world = start_world(args.place.device, args.folder)
    world.limit_waits(WAIT_MIN)
    return world


def evaluate_all(args: Arguments, protocol: Protocol | None, world: World) -> int:
    """Evaluates what is asked for; the main rank prints and writes it. Returns the exit code.

    Raises:
        ValueError: bad input; all but unreadable images and broken weights is found before an image is read.
    """
    from evaluation.mirror import mirror
    from evaluation.probe import linear_probe
    from evaluation.results import write_result

    parts: list[Part] = []
    with world.together():
        if protocol:
            parts.append(linear_probe(args, protocol, world))
        if args.method.finetune:
            from evaluation.finetune import finetuning

            parts.append(finetuning(args, world))
        if args.captions.asked:
            from evaluation.tasks import image_text_parts

            parts += image_text_parts(args, world)
    parts.sort(key=lambda part: part.states is not None)  # long ones last: a stop later would have them done again
    code = 0
    for part in parts:
        began = time.monotonic()
        if world.is_main:
            print(*part.heading, sep="\n", flush=True)
        rows, text = part.run()
        if not world.is_main:
            continue
        print(f"\n{text}\n")
        seconds = time.monotonic() - began
        try:
            write_result(part, rows, device=str(world.device), processes=world.size, seconds=round(seconds, 1))
        except OSError as error:
            complain(f"{part.out} could not be written: {error.strerror or error}")
            code = NOT_WRITTEN_EXIT
        else:
            print(f"written to {part.out} after {seconds:.0f} s", flush=True)
            if part.states:
                shutil.rmtree(part.states, ignore_errors=True)
        pictures: dict[str, Path] = {}
        try:
            pictures = part.draw(part.folder) if part.draw else {}
        except OSError as error:
            complain(f"no pictures in {part.folder}: {error.strerror or error}")
            code = NOT_WRITTEN_EXIT
        for path in pictures.values():
            print(f"picture: {path}", flush=True)
        mirror(part, rows, pictures, args)
    return code


def complain(message: str) -> None:
    """Prints a line on stderr."""
    print(f"eval_linear.py: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    stop.block()  # before torch is imported: its threads and the data workers inherit the mask
    stop.watch_interrupt()
    sys.exit(main(sys.argv[1:]))
