"""A table across runs, from the results that eval_linear.py wrote: Markdown on the screen, and CSV.

    python -m evaluation.compare RUN RUN ... [--metric NAME] [--csv FILE]

RUN is a run folder, of which all of eval/ is read (without any, evaluation.json of the run's end), or a result's .json
file. Runs that differ in their seed alone are one row: the mean and standard deviation over pretraining runs. A column
is one protocol on the same images seen the same way; what would mix is refused with exit code 2.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .recorded import Result, Value, check_alike, read, values_of

ON_TEST = "-on-test"
BAD_INPUT_EXIT = 2


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="folders or results")]
    metric: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME",
            help="such as linear-cached/top1; left out: all but those that were chosen on the test split",
        ),
    ] = ()
    encoder: Annotated[str, tyro.conf.arg(metavar="NAME", help="row of each result")] = "pretrained"
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help="the table as CSV, a line a number")] = None


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    args = tyro.cli(Arguments, args=list(argv), prog="python -m evaluation.compare", description=__doc__)
    try:
        results = read(args.runs)
        columns = pick(values_of(results, args.encoder), args.metric)
        for name, values in columns.items():
            check_alike(name, values)
        groups = group(results)
        print("\n".join(markdown(columns, groups)))
        if args.csv is not None:
            write_csv(args.csv, columns, groups)
    except (ValueError, OSError) as error:
        print(f"evaluation.compare: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT_EXIT
    return 0


def pick(columns: Mapping[str, list[Value]], names: Sequence[str]) -> dict[str, list[Value]]:
    """Returns the columns asked for; a name's end, such as "top1", where it is one column's alone.

    Raises:
        ValueError: no such metric, or the end of several: they are different protocols.
    """
    if not names:
        return {name: values for name, values in columns.items() if not name.endswith(ON_TEST)}
    picked = {}
    for name in names:
        ends = [name] if name in columns else [column for column in columns if column.endswith(f"/{name}")]
        if not ends:
            raise ValueError(f"--metric {name}: there are {', '.join(columns)}")
        if len(ends) > 1:
            found = "; ".join(f"{end} of {', '.join(str(v.result.run) for v in columns[end])}" for end in ends)
            raise ValueError(f"--metric {name} would mix protocols in one column: {found}. Give the whole name of one")
        picked[ends[0]] = columns[ends[0]]
    return picked


def group(results: Sequence[Result]) -> dict[str, list[Path]]:
    """Returns the runs of each row: those that differ in nothing but their seed, under the recipe and what it has else.

    Raises:
        ValueError: two runs of a group have the same weights.
    """
    alike: list[list[Result]] = []
    for result in results:
        own = (result.name, result.knobs, result.described)
        members = next((m for m in alike if (m[0].name, m[0].knobs, m[0].described) == own), None)
        if members is None:
            alike.append([result])
        else:
            members.append(result)
    groups = {}
    for members in alike:
        _check_distinct(members)
        same_name = [other[0] for other in alike if other[0].name == members[0].name]
        said = _said("knobs", same_name, members[0]) or _said("described", same_name, members[0])
        label = f"{members[0].name} ({said})" if said else members[0].name
        label += f", {members[0].run}" if label in groups else ""
        groups[label] = list(dict.fromkeys(member.run for member in members))
    return groups


def _said(field: str, of: Sequence[Result], one: Result) -> str:
    """Returns "lr 0.01, epochs 30": the first three settings of `one` that are not the same in all of `of`."""
    each = [getattr(result, field) for result in of]
    differing = [key for key in each[0] if len({str(settings.get(key)) for settings in each}) > 1]
    return ", ".join(f"{key} {getattr(one, field).get(key)}" for key in differing[:3])


def _check_distinct(members: Sequence[Result]) -> None:
    owners: dict[str, Path] = {}
    for member in members:
        digest = member.content.get("weights", {}).get("sha256")
        if digest and owners.setdefault(digest, member.run) != member.run:
            raise ValueError(f"{owners[digest]} and {member.run} hold the same weights: they are one run, not two")


def summary(values: Sequence[Value]) -> tuple[float, float | None, tuple[float, float] | None]:
    """Returns mean, standard deviation over runs, and interval over test images.

    The runs' test images are the same, so their intervals do not shrink like independent ones; the mean of their ends
    is what would hold if the runs erred on the same images, and no narrower than the interval of their mean.
    """
    means = [value.mean for value in values]
    ends = [value.interval for value in values if value.interval is not None]
    whole = len(ends) == len(values)
    interval = (statistics.fmean(e[0] for e in ends), statistics.fmean(e[1] for e in ends)) if whole else None
    return statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None, interval


def markdown(columns: Mapping[str, list[Value]], groups: Mapping[str, list[Path]]) -> list[str]:
    """Returns the table's lines: a row a group of runs, a column a metric."""
    lines = ["| run | n | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for name, runs in groups.items():
        cells = []
        for values in columns.values():
            own = [value for value in values if value.result.run in runs]
            if not own:
                cells.append("-")
                continue
            mean, std, interval = summary(own)
            text = f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
            text += "" if interval is None else " [{:.2f}, {:.2f}]".format(*interval)
            cells.append(text + (f" (n {len(own)})" if len(own) < len(runs) else ""))
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return [*lines, "", "%; mean ± standard deviation over n pretraining runs; [95 % bootstrap over test images]"]


def write_csv(file: Path, columns: Mapping[str, list[Value]], groups: Mapping[str, list[Path]]) -> None:
    """Writes a line for each group and metric, with every run's value.

    Raises:
        OSError: the file cannot be written.
    """
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", "metric", "n", "mean", "std", "low", "high", "num_test", "values", "folders"])
        for name, runs in groups.items():
            for metric, values in columns.items():
                own = [value for value in values if value.result.run in runs]
                if own:
                    mean, std, interval = summary(own)
                    numbers = [mean, std, *(interval or (None, None))]
                    each = [" ".join(f"{v.mean:.6g}" for v in own), " ".join(str(v.result.run) for v in own)]
                    rounded = ["" if number is None else f"{number:.6g}" for number in numbers]
                    writer.writerow([name, metric, len(own), *rounded, own[0].num_images or "", *each])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
