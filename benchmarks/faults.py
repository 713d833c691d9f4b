"""What each fault costs: seconds from the fault to the checkpoint, to training again, and steps repeated.

    python -m benchmarks.faults [--rounds 3]      runs the tests of tests/slurm so often, prints the table

The figures are those that the tests on a real Slurm (on this machine) note while they pass. Slurm's own timers are the
test cluster's: a requeued job waits 5 s (its default: 120 s), a silent node is lost after 10 to 30 s (300 s).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/slurm/test_task.py", "tests/slurm/test_faults.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figures", type=Path, help="file of figures; it is added to, so that a later call goes on")
    args = parser.parse_args()
    place = args.figures or Path(tempfile.mkdtemp()) / "figures.jsonl"
    env = os.environ | {"FAULT_FIGURES": str(place), "OMP_NUM_THREADS": "1"}
    for _ in range(args.rounds):
        command = (sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTS)  # as `make test` does
        done = subprocess.run(command, cwd=ROOT, env=env, check=False)
        if done.returncode:
            return done.returncode
    print(table(place))
    return 0


def table(place: Path) -> str:
    rows: dict[str, list[dict[str, float]]] = {}
    for line in place.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        rows.setdefault(figures.pop("row"), []).append(figures)
    lines = ["| fault | n | s to checkpoint or end | s to training again | steps repeated |", "|---|---|---|---|---|"]
    for row, found in rows.items():
        cells = [spread([one[key] for one in found if key in one]) for key in ("save", "resume")]
        repeated = [int(one["repeated"]) for one in found if "repeated" in one]
        several = f"{min(repeated)} to {max(repeated)}" if repeated and min(repeated) < max(repeated) else ""
        cells.append(several or (str(repeated[0]) if repeated else ""))
        lines.append(f"| {row} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Returns "median (lowest to highest)"."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else ""


if __name__ == "__main__":
    sys.exit(main())
