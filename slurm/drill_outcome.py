"""What became of a disturbed run, held against the one that nobody disturbed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):  # noqa: N818  (names what happened)
    """Why a run does not pass."""


@dataclass
class Outcome:
    """What became of a run, one line of the report."""

    name: str
    step: int | None = None  # on record when the fault fell
    starts: int = 0
    repeated: int | None = None  # steps that were on record and were made once more
    exit_s: float | None = None  # from the fault until all ranks had left
    again_s: float | None = None  # from the next start to its first step
    equal: bool | None = None
    reason: str = ""

    def __str__(self) -> str:
        weights = {None: "weights not compared", True: "weights equal", False: "weights DIFFER"}[self.equal]
        seconds = [f"{'-' if s is None else format(s, '.1f'):>5} s" for s in (self.exit_s, self.again_s)]
        step, repeated = ("-" if n is None else n for n in (self.step, self.repeated))
        line = f"{'FAIL' if self.reason else 'PASS'}  {self.name:<11}  step {step:>3}  starts {self.starts}  repeated "
        line += f"{repeated:>2}  to exit {seconds[0]}  to training again {seconds[1]}  {weights}"
        return f"{line}\n      {self.reason}" if self.reason else line


def weights(run: Path) -> str:
    """Returns the SHA-256 of the exported encoder."""
    path = run / "encoder" / "model.safetensors"
    if not path.is_file():
        raise Failed(f"it finished without {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def losses(run: Path) -> list[tuple[int, float | str]]:
    """Returns (step, loss) of each line on record, in the order of writing; NaN is a text there."""
    found = []
    for text in (run / "metrics.jsonl").read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # torn by a kill
            continue
        if isinstance(line, dict) and "loss" in line:
            found.append((line["step"], line["loss"]))
    return found


def repeated(run: Path) -> int:
    """Returns how many steps are on record more than once."""
    steps = [step for step, _ in losses(run)]
    return len(steps) - len(set(steps))


def first_difference(run: Path, reference: Path) -> str:
    """Returns where two runs part."""
    wanted = dict(losses(reference))
    for step, loss in sorted(losses(run), key=lambda line: line[0]):
        if loss != wanted.get(step):
            return f"the loss of step {step} is {loss} instead of {wanted.get(step)}"
    return "every loss on record is that of the reference, the final weights are not"
