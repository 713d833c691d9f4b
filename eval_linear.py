"""Evaluate a frozen encoder: linear probe by a named protocol, and weighted k-NN; zero-shot and retrieval by captions.

    python eval_linear.py --run RUN --data DIR
    python eval_linear.py --weights resnet50.pth --backbone resnet50 --data IMAGENET --protocol bt-100ep
    python eval_linear.py --run RUN --data IMAGENET --subset 1% --subset-file 1percent.txt --finetune bt
    python eval_linear.py --run RUN --zero-shot imagenet --data IMAGENET --retrieval PAIRS --split test

Prints a table and writes it as JSON. Exit codes: 0 done; 2 bad input, found before anything was computed or
overwritten; 74 the result was printed but could not be written; 75 stopped by a signal after saving: run the same
command again.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in pretrain.py: threads that spin starve the data workers

from evaluation.command import Arguments, parse
from evaluation.protocols import find
from training import stop

BAD_INPUT_EXIT, NOT_WRITTEN_EXIT = 2, 74


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    try:
        return evaluate_all(parse(argv, __doc__))
    except ValueError as error:
        print(f"eval_linear.py: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT_EXIT
    except stop.Stopped as stopped:
        if stop.is_first_rank():
            print(f"eval_linear.py: {stopped}", file=sys.stderr)
        return stop.STOPPED_EXIT


def evaluate_all(args: Arguments) -> int:
    """Evaluates what is asked for, prints and writes it; returns the exit code.

    Raises:
        ValueError: bad input; all but unreadable images and broken weights is found before an image is read.
    """
    protocol = find(args.probe, args.method.epochs) if args.probe else None

    # torch and timm are imported after the command line is understood: --help is instant
    from evaluation.mirror import mirror
    from evaluation.probe import linear_probe
    from evaluation.results import write_result
    from parallel import start_world

    world = start_world(args.place.device)
    if world.size > 1:
        world.stop()
        raise ValueError(f"the evaluation runs in one process, {world.size} were started: leave torchrun or srun out")
    parts = [linear_probe(args, protocol, world)] if protocol else []
    if args.method.finetune:
        from evaluation.finetune import finetuning

        parts.append(finetuning(args, world))
    if args.captions.asked:
        from evaluation.tasks import image_text_parts

        parts += image_text_parts(args, world.device)
    code = 0
    for part in parts:
        began = time.monotonic()
        print(*part.heading, sep="\n", flush=True)
        rows, text = part.run()
        print(f"\n{text}\n")
        seconds = time.monotonic() - began
        try:
            write_result(part, rows, device=str(world.device), seconds=round(seconds, 1))
        except OSError as error:
            print(f"eval_linear.py: {part.out} could not be written: {error.strerror or error}", file=sys.stderr)
            code = NOT_WRITTEN_EXIT
        else:
            print(f"written to {part.out} after {seconds:.0f} s", flush=True)
            if part.states:
                shutil.rmtree(part.states, ignore_errors=True)
        pictures: dict[str, Path] = {}
        try:
            pictures = part.draw(part.folder) if part.draw else {}
        except OSError as error:
            print(f"eval_linear.py: no pictures in {part.folder}: {error.strerror or error}", file=sys.stderr)
            code = NOT_WRITTEN_EXIT
        for path in pictures.values():
            print(f"picture: {path}", flush=True)
        mirror(part, rows, pictures, args)
    return code


if __name__ == "__main__":
    stop.block()  # before torch is imported: its threads and the data workers inherit the mask
    stop.watch_interrupt()
    sys.exit(main(sys.argv[1:]))
