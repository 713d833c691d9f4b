"""Pretrain a backbone by one recipe, on this machine or as one rank of a job.

    python pretrain.py                                       the recipes, a line each
    python pretrain.py barlow_twins_rn50 --help              its knobs, with default, meaning and source
    python pretrain.py barlow_twins_rn50 --data D --out O    run it; the same command again resumes it
    torchrun --nproc-per-node 8 pretrain.py ...              on several GPUs: the same losses as on one
    python pretrain.py --check 32 barlow_twins_rn50 ...      what is wrong with this command on 32 ranks; runs nothing

Exit codes: 0 done; 2 bad input, nothing was overwritten; 75 stopped by a signal after saving: run the same command
again; the others stand in training/stop.py.
"""

from __future__ import annotations

import os
import sys

from training import stop

# before torch starts threads: they and the data workers inherit the mask, and a signal waits for the step's end
stop.block()

# Threads that spin while they wait take cores from the data workers and from others: many times slower on busy cores.
# Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import multiprocessing
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import recipes

GO, STOP, BAD_INPUT = 0, 1, 2  # what a rank says at the top of a step; the highest is done by all
SAVE_FAILED_EXIT = 74  # EX_IOERR: asked to stop, but the checkpoint could not be written; an older one is whole
BAD_SHARE = 0.01  # of the images may be unreadable under --skip-bad-images; more looks like a broken copy
PROBE_ROWS = 128
PROBE_EPOCH = 2**31  # no run gets there: the probe batch has an order and views of its own


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, recipes.names()))
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
        print("usage: python pretrain.py RECIPE --out DIR [--data DIR] [flags]   (RECIPE --help lists its flags)\n")
        for name in recipes.names():
            print(f"  {name:<{width}}  {recipes.summary(name)}")
        return 0
    try:
        return check(argv[1:]) if argv[0] == "--check" else pretrain(argv[0], argv[1:])
    except ValueError as error:  # what a user can mend; where all ranks share a terminal, one says it
        if stop.is_first_rank() or "SLURM_PROCID" in os.environ:
            complain(str(error))
        return stop.BAD_INPUT_EXIT
    finally:
        # Data workers hold SIGTERM back, which is what a Python that exits would send them, and then wait for ever.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call their end an error
        for worker in multiprocessing.active_children():
            worker.kill()


def check(argv: list[str]) -> int:
    """Finds what is wrong with commands before a queue is waited for. Needs no GPU.

    Nothing is run, and nothing written but the index of tar shards, which every later start reads.

    argv is the number of ranks, then one command; or the number alone, with a JSON list of commands on stdin.

    Raises:
        ValueError: bad input, as when it is run.
    """
    if not argv or not argv[0].isdigit() or int(argv[0]) < 1:
        raise ValueError(
            "--check wants the number of ranks first: python pretrain.py --check 32 RECIPE --data D --out O"
        )
    import torch

    from data.loader import open_images
    from data.packed import store_of
    from objectives.backward import batch_norm_rows
    from parallel import World
    from training import command, run_folder

    built: list[tuple[Any, Any]] = []  # most members of a sweep share their networks, and a large one takes seconds
    for name, *flags in [argv[1:]] if argv[1:] else json.load(sys.stdin):
        asked = command.read(recipes.load(name), flags, name, recipes.summary(name))
        recipe, place = asked.recipe, asked.place
        world = World(0, int(argv[0]), torch.device("cpu" if place.device == "cpu" else "cuda"))
        images, epoch_steps = open_images(recipe, place, world)
        networks = asked.described["objective"]
        if networks not in [described for described, _ in built]:
            with torch.device("meta"):
                built.append((networks, recipe.objective()))
        objective = next(objective for described, objective in built if described == networks)
        command.note_chunks(asked, batch_norm_rows(objective, recipe.batch_size, place.chunks))
        command.note_store(asked, store_of(images))
        run_folder.find_run(place.out, name, asked.described)
        print(f"{place.out}: {len(images)} images, {recipe.epochs * epoch_steps} steps of {recipe.batch_size} rows")
    return 0


class Leave(Exception):  # noqa: N818  (leaving is no error)
    """Ends the training loop on every rank at the same step."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def pretrain(name: str, argv: list[str]) -> int:
    """Trains the recipe called `name` with the given flags; returns the exit code.

    Raises:
        ValueError: bad input, found before any training starts.
    """
    function = recipes.load(name)  # torch is imported here, so that the list of recipes is instant

    import torch

    from augmentations import mix
    from data.ahead import to_device
    from data.batches import StepBatches
    from data.loader import Loader, left_out, open_images
    from data.order import epoch_order
    from data.packed import store_of
    from data.resident import ResidentLoader, hold
    from data.stage import stage
    from diagnostics.heartbeat import NAME as HEARTBEAT
    from diagnostics.heartbeat import Heartbeat
    from diagnostics.probe import Probe
    from diagnostics.progress import Progress
    from diagnostics.record import Record, read_events
    from evaluation.at_end import finish
    from evaluation.online import Online
    from models import recompute_activations
    from objectives import Step
    from objectives.backward import Chunks, WholeBatch, batch_norm_rows
    from objectives.base import FEATURES
    from parallel import start_world, synchronise_batch_norm
    from training import checkpoint, claim, command, run_folder
    from training.optimizers import describe_groups
    from training.schedule import learning_rate, set_learning_rate

    # 1. What to run. All that a user can get wrong is found out before training, and nothing is overwritten.
    asked = command.read(function, argv, name, recipes.summary(name))
    recipe, place = asked.recipe, asked.place
    world = start_world(place.device, place.out)
    device = world.device
    images, epoch_steps = open_images(recipe, place, world)
    total_steps = recipe.epochs * epoch_steps
    warmup_steps = round(recipe.warmup_epochs * epoch_steps) if recipe.warmup_steps is None else recipe.warmup_steps
    heatmap_every = max(1, total_steps // 20) if place.heatmap_every is None else place.heatmap_every

    # 2. Networks and optimiser. Weights are drawn on the CPU from the seed: the same on every machine and rank.
    torch.set_float32_matmul_precision("highest")  # of losses; some containers make it TF32 by a variable
    torch.backends.cudnn.deterministic = place.deterministic
    torch.backends.cudnn.benchmark = not place.deterministic  # a choice by timing, which a resumed run may make anew
    torch.manual_seed(recipe.seed)
    objective = recipe.objective()
    norm_rows = batch_norm_rows(objective, recipe.batch_size, place.chunks)
    command.note_chunks(asked, norm_rows)
    store = store_of(images)
    command.note_store(asked, store)
    synchronise_batch_norm(objective, device)
    objective.to(device, torch.float64 if recipe.precision == "fp64" else torch.float32)
    if place.channels_last:
        objective.to(memory_format=torch.channels_last)
    for trunk in objective.trunks():
        if place.recompute:
            recompute_activations(trunk)
        if place.compile:
            trunk.compile()
    optimizer = recipe.optimizer.build(objective)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    if place.chunks > 1:
        forward_backward: Any = Chunks(objective, recipe.precision, place.chunks, place.compress_gradients)
    else:
        forward_backward = WholeBatch(world.data_parallel(Step(objective, recipe.precision), place.compress_gradients))

    # 3. The run folder, and where the run stands. One rank looks, all of them hear.
    def ask_main(look: Callable[[], object]) -> None:
        """Has rank 0 look at the run folder; refuses on all ranks what it refuses."""
        refused = None
        if world.is_main:
            try:
                look()
            except ValueError as error:
                refused = str(error)
        if refused := world.from_main(refused):
            raise ValueError(refused)

    mine = partial(claim.take, place.out, place.out / HEARTBEAT, complain)

    def find_run() -> None:
        if run_folder.find_run(place.out, name, asked.described) and not checkpoint.is_done(place.out):
            mine()  # before its checkpoints are read

    ask_main(find_run)
    if world.from_main(checkpoint.is_done(place.out)):
        if world.is_main:
            print(f"this run is finished: {place.out / 'encoder'}")
        return 0
    checkpoints = place.out / "checkpoints"
    newest, damaged = world.from_main(checkpoint.newest(checkpoints) if world.is_main else None)
    if damaged and newest is None:
        raise ValueError(
            f"--out {place.out}: every checkpoint is damaged; restore one, or take a new folder to start over"
        )
    step = 0  # the number of updates made: with the seed it is the whole position of the run
    watched = None  # the online probe, where the run had one
    if newest is not None:
        state = checkpoint.load(newest)
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        step, watched = state["step"], state.get("online")
        del state

    # 4. The input path, and the record of the run, which rank 0 writes.
    if place.stage:
        staged = stage(images, place.stage, world, stop.pending)
        if isinstance(staged, str):
            if world.is_main:
                complain(f"stopped by {staged} while shards were copied: run the same command again")
            world.stop()
            return stop.STOPPED_EXIT
        images = staged
    batches = StepBatches(
        images,
        recipe.views,
        recipe.seed,
        recipe.batch_size,
        world.rank,
        world.size,
        place.skip_bad_images,
        recipe.tokenizer,
        place.views,
    )
    making = step, total_steps, place.workers
    if place.resident:
        held = hold(images, device)
        loader: Any = ResidentLoader(batches, held, *making, place.channels_last, place.compile, stop.in_worker)
    else:
        loader = Loader(batches, *making, device, place.channels_last, place.compile, stop.in_worker)
    online = None
    if place.probe_every:
        sets = images, recipe.data.open(place.data, "test")
        online = Online(objective.encoder, *sets, recipe.eval_view, world, place.workers, recipe.precision)
        if watched:
            online.load_state_dict(watched)
    # The folder becomes this run's only now: what was refused so far may be left out of the next command.
    source = recipes.source_text(name)
    ask_main(lambda: run_folder.open_run(place.out, name, asked.knobs, asked.described, source))
    ask_main(mine)  # a new folder is one only now
    queue = iter(loader)  # workers start here, before other threads do
    hosts = world.collect(run_folder.describe_host(device))
    record = progress = heartbeat = probe = None
    if world.is_main:
        for difference in run_folder.different_versions(hosts):
            complain(difference)
        try:
            run_folder.record_attempt(place.out, hosts, vars(place), store)
        except OSError as error:
            raise ValueError(f"--out {place.out} cannot be written: {error.strerror or error}") from None
        print(f"{name}: {len(images)} images, {recipe.epochs} epochs, {total_steps} steps of {recipe.batch_size} rows")
        print(f"{world.size} x {device}, {recipe.precision}, run folder {place.out}")
        if store:
            print("images from store", ", ".join(f"{key} {value}" for key, value in store.items()))
        print(f"{place.workers} workers a rank, {loader}")
        if online:
            print(online)
        print(describe_groups(optimizer), flush=True)
        if norm_rows:
            complain(
                f"--chunks {place.chunks}: BatchNorm's statistics are of {norm_rows} rows, not of the batch's "
                f"{recipe.batch_size}: another run than without it. --recompute saves memory and is exact"
            )
        if place.compress_gradients and world.size == 1:
            complain("--compress-gradients: one process exchanges none; it takes effect on several")
        record = Record(place.out, place.wandb, asked.described, place.out.name, place.wandb_project, step)
        for file, fault in damaged.items():
            complain(f"skipped a damaged checkpoint: {file}: {fault}")
            record.event("damaged_checkpoint", path=str(file), fault=fault)
        for reason, (count, examples) in left_out(images).items():
            complain(f"--data {place.data}: {count} left out: {reason}, such as {examples[0]}")
            record.event("skipped_pairs", reason=reason, count=count, examples=examples)
        if step:
            print(f"resumed at step {step} from {newest}", flush=True)
        progress = Progress(total_steps, step, recipe.batch_size, epoch_steps)
        heartbeat = Heartbeat(place.out, total_steps, recipe.batch_size, record.attempt)

        # Heatmaps compare over time only on a fixed batch: one the training never draws, of an epoch that never comes.
        rows = epoch_order(recipe.seed, PROBE_EPOCH, len(images))[: min(PROBE_ROWS, recipe.batch_size)]
        fixed = batches.render(rows, PROBE_EPOCH) if heatmap_every else None
        if fixed and not fixed.error:
            on_device = to_device(fixed, recipe.views, device, place.channels_last)
            labels = fixed.captions or None, fixed.batch.views[0]
            probe = Probe(objective, on_device, place.out / "heatmaps", recipe.batch_size, *labels)

    def look(loss: float | None = None) -> None:
        """Draws the heatmaps and measures the embeddings of the probe batch."""
        if record is None or probe is None:
            return
        seen = probe.look(step, step / total_steps, loss)
        record.metrics(step, seen.numbers)
        record.images(step, seen.pictures)
        for name, table in seen.tables.items():
            record.table(step, name, *table)
        if seen.warning:
            complain(seen.warning)
            record.event("collapse", step=step, warning=seen.warning)

    def watch() -> None:
        """Measures the encoder by the online probe and k-NN; all ranks share the work."""
        if heartbeat:
            heartbeat.beat(step, "evaluating")
        numbers = online.evaluate() if online else {}
        if record:
            record.metrics(step, numbers)

    def save() -> bool:
        """Saves the state after `step` updates, if it is finite; returns, on every rank, whether it could be written.

        No rank goes on before the file is on the disk: the first to leave a job may take the others with it.
        """
        state = {
            "step": step,
            "recipe": asked.described,
            "objective": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
        }
        if online:
            state["online"] = online.state_dict()
        if int(first_bad) >= 0:
            raise Leave(stop.NON_FINITE_EXIT, f"the loss of step {int(first_bad)} is not finite")
        infinite = world.from_main(checkpoint.all_finite(state) if world.is_main else None)
        if infinite:
            raise Leave(stop.NON_FINITE_EXIT, f"{infinite} is not finite after step {step}")
        unread = set().union(*world.collect(replaced)) - listed
        listed.update(unread)
        replaced.clear()
        written = True
        if record:
            for message in sorted(unread):
                record.event("bad_image", message=message, count=len(listed))
            try:
                checkpoint.save(checkpoints, step, state, place.keep)
            except checkpoint.CheckpointError as error:  # a full disk does not end the run: the next save may succeed
                complain(str(error))
                record.event("save_failed", step=step, error=str(error))
                written = False
        return world.from_main(written)

    # 5. Train.
    first_bad = torch.full((), -1, device=device)  # step of the first non-finite loss; read only where we wait anyway
    # Messages of unreadable images: those in events.jsonl, of all ranks and starts; this rank's since the last save.
    bad_limit = max(100, BAD_SHARE * len(images))
    known = [event["message"] for event in read_events(place.out) if event["event"] == "bad_image"]
    listed: set[str] = set(world.from_main(known))
    replaced: set[str] = set()
    timed = (step, time.perf_counter())
    first_step = step
    stop.watch_interrupt()
    code = 1  # what an exception that is not ours ends with
    try:
        if step == 0 and heatmap_every:
            look()
        if step == 0 and online:
            watch()
        while step < total_steps:
            began = time.perf_counter()
            loaded = next(queue)
            waited = time.perf_counter() - began
            replaced |= set(loaded.replaced) - listed
            num_bad = len(listed) + len(replaced)
            if num_bad > bad_limit:
                example = next(iter(replaced or listed))
                loaded.error = f"{num_bad} of {len(images)} images cannot be read, such as {example}"

            # All ranks leave at the same step: one small exchange between hosts, which waits for no GPU.
            notice = stop.pending()
            verdict = world.highest(BAD_INPUT if loaded.error else STOP if notice else GO)
            if verdict:
                saved = save()
                if verdict == BAD_INPUT:
                    found = next(message for message in world.collect(loaded.error) if message)
                    hint = "" if place.skip_bad_images else "; --skip-bad-images replaces such images and lists them"
                    raise Leave(stop.BAD_INPUT_EXIT, f"{found}{hint}")
                if not saved:
                    raise Leave(SAVE_FAILED_EXIT, f"stopped at step {step} without a checkpoint of it")
                raise Leave(
                    stop.STOPPED_EXIT,
                    f"stopped by {notice or 'another rank'} at step {step}, saved: run the same command again",
                )

            torch.manual_seed(mix(recipe.seed, step, world.rank))  # dropout and drop-path: a function of the step, too
            set_learning_rate(optimizer, learning_rate(step, total_steps, warmup_steps, recipe.final_lr))
            terms, z = forward_backward(loaded.batch, step / total_steps, scaler)
            loss = torch.stack(list(terms.values())).sum()
            first_bad = torch.where((first_bad < 0) & ~loss.isfinite(), step, first_bad)
            if recipe.clip_grad is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe.clip_grad)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            objective.after_step(z, step / total_steps)
            if online:
                online.update(z[FEATURES], loaded.batch.label)
            if step == first_step + 1:  # every rank has its data and is compiled: from here a silent one is a dead one
                world.limit_waits(place.timeout_min)
            if heartbeat:
                heartbeat.beat(step)

            logged = step % place.log_every == 0 or step == total_steps
            if logged:
                # the one wait for the device: everything is read in one copy
                watched = objective.watched()
                *values, bad = torch.stack([loss, *terms.values(), *watched.values(), first_bad]).double().tolist()
                if bad >= 0:
                    raise Leave(stop.NON_FINITE_EXIT, f"the loss of step {int(bad)} is not finite")
                if record and progress:
                    now = time.perf_counter()
                    speed = (step - timed[0]) * recipe.batch_size / (now - timed[1])
                    timed = (step, now)
                    lr = optimizer.param_groups[0]["lr"]
                    progress.update(step, values[0], lr, waited)
                    names = ["loss", *(f"loss/{term}" for term in terms), *watched]
                    numbers = {"lr": lr, "epoch": step / epoch_steps, "images_per_second": speed}
                    record.metrics(step, dict(zip(names, values, strict=True)) | numbers)
            elif progress:
                progress.update(step, data_wait=waited)
            if heatmap_every and (step % heatmap_every == 0 or step == total_steps):
                look(values[0] if logged else None)
            if online and (step % place.probe_every == 0 or step == total_steps):
                watch()
            if (step % place.save_every == 0 or step == total_steps) and not save() and step == total_steps:
                raise Leave(SAVE_FAILED_EXIT, "trained to the end, but the last checkpoint could not be written")

        # 6. The encoder, and what it is worth.
        if record and heartbeat:
            heartbeat.beat(step, "evaluating")
            evaluate = recipe.evaluate and place.evaluate
            try:
                finish(objective, recipe, place.out, place.data, evaluate, device, place.workers)
                checkpoint.mark_done(place.out, step)
                heartbeat.beat(step, "done")
            except (OSError, checkpoint.CheckpointError) as error:
                raise Leave(SAVE_FAILED_EXIT, f"trained to the end and saved, but: {error}") from error
            except stop.Stopped as stopped:  # started again, it evaluates
                raise Leave(stop.STOPPED_EXIT, f"trained to the end and saved; its evaluation: {stopped}") from stopped
        code = 0
    except ValueError as error:  # no longer the command line's fault: the place it comes from is wanted
        raise RuntimeError(f"training failed at step {step}") from error
    except Leave as leave:
        code = leave.code
        if world.is_main:
            complain(str(leave))
            if record and heartbeat:
                record.event("stop", step=step, code=code, reason=str(leave))
                heartbeat.beat(step, "stopped")
    finally:
        if progress:
            progress.close()
        if record:
            record.finish(code)
        world.stop()
    return code


def complain(text: str) -> None:
    """Prints one line to stderr."""
    print(f"pretrain.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
