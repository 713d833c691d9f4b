"""Where a training step's time goes on this machine, for any recipe.

    python -m benchmarks.profile RECIPE [flags of pretrain.py] [--steps 20] [--warmup 5] [--model-only] [--json FILE]

pretrain.py's own loop runs for some steps in a temporary run folder (`benchmarks/loop.py`). Parts:

| part | what |
|---|---|
| data wait | the next batch is not there yet |
| copy | pixels to the device: a wait for what was begun a step before; none on a CPU |
| views | what of the augmentation is done on the device, and normalising; on a CPU the workers do it |
| forward | networks, `embed` |
| loss | `terms`, and its backward as far as the embeddings |
| backward | of the networks; on several ranks with the exchange of gradients |
| optimiser | gradient clipping and the update |
| rest | schedule, logging, agreement between ranks |

On a GPU these are the device's own times, by CUDA events: `data wait` is what the device waits. --model-only repeats
the first batch, already on the device: what a step takes if data cost nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import loop


def measure(arguments: list[str]) -> dict[str, Any]:
    """Returns what the command's steps took: seconds by part, the batch's rows, peak memory, circumstances.

    Raises:
        RuntimeError: pretrain.py refuses the command; its words are in the message.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        usage="%(prog)s RECIPE [flags of pretrain.py] [--steps N] [--warmup N] [--model-only] [--json FILE]",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,  # what is not known here is pretrain.py's
    )
    add = parser.add_argument
    add("recipe", help="as for pretrain.py")
    add("--steps", type=int, default=20, help="measured steps (default %(default)s)")
    add("--warmup", type=int, default=5, help="steps before them (default %(default)s)")
    add("--model-only", action="store_true", help="repeat one batch that is on the device already")
    add("--json", type=Path, help="also write everything to this file")
    options, flags = parser.parse_known_args(arguments)
    found = loop.run([options.recipe, *flags], options.steps, options.warmup, options.model_only)
    result = {
        **loop.about(len(found.steps), found.peak_bytes is not None),
        "command": [options.recipe, *flags],
        "model_only": options.model_only,
        "rows": found.rows,
        "start_s": found.start_s,
        "peak_bytes": found.peak_bytes,
        "steps": found.steps,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


def step_s(result: dict[str, Any]) -> list[float]:
    """Returns the seconds of each measured step."""
    return [sum(parts.values()) for parts in result["steps"]]


def table(result: dict[str, Any]) -> str:
    """Returns a line a part: median, lowest and highest of its milliseconds, and its share of all time."""
    whole = step_s(result)
    lines = ["| part | ms a step | low to high | share |", "|---|---|---|---|"]
    for part in loop.PARTS:
        taken = [1e3 * parts[part] for parts in result["steps"]]
        share = sum(taken) / sum(whole) / 10
        lines.append(
            f"| {part} | {statistics.median(taken):.2f} | {min(taken):.2f} to {max(taken):.2f} | {share:.1f} % |"
        )
    low, high = 1e3 * min(whole), 1e3 * max(whole)
    lines.append(f"| step | {1e3 * statistics.median(whole):.2f} | {low:.2f} to {high:.2f} | 100 % |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Prints the table; returns the exit code."""
    try:
        result = measure(arguments)
    except RuntimeError as error:
        print(f"profile: {error}", file=sys.stderr)
        return 2
    print("  ".join(f"{name} {result[name]}" for name in ("commit", "torch", "device", "threads")))
    rate = result["rows"] / statistics.median(step_s(result))
    memory = f", peak {result['peak_bytes'] / 2**30:.1f} GiB" if result["peak_bytes"] else ""
    print(f"{' '.join(result['command'])}: {rate:,.0f} images/s, n = {len(result['steps'])} steps{memory}")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
