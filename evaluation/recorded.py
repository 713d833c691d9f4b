"""Results of eval_linear.py, read back: each run's numbers by column, and what else makes them what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.recipe import first_difference

# What must be the same in one column, the shortest first: the first difference is what the message names.
IMAGES = ("view", "subset", "num_train", "num_test", "num_images", "num_captions", "data", "pairs", "split")
NAMES = ("classes", "class_names", "templates")


@dataclass(frozen=True)
class Result:
    """One result of one run.

    run: the run folder, or the file where there is none.
    name: the recipe's, or the weights' file.
    knobs, described: what makes runs different, by name; the seed is none of it.
    """

    file: Path
    run: Path
    name: str
    knobs: Mapping[str, Any]
    described: Mapping[str, Any]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Value:
    """A metric of one run: mean over the probe's seeds and interval over test images, in percent.

    facts: what has to be the same in other runs for their values to stand in one column.
    """

    result: Result
    mean: float
    interval: tuple[float, float] | None
    num_images: int | None
    facts: Mapping[str, Any]


def read(paths: Sequence[Path]) -> list[Result]:
    """Returns all results of the runs, in the order given.

    Raises:
        ValueError: no result there, one that cannot be read, or a run that is given twice.
    """
    results = []
    for path in paths:
        files = sorted(path.glob("eval/*.json")) or sorted(path.glob("evaluation.json")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no result: python eval_linear.py --run {path} makes one")
        results += [_read_one(file) for file in files]
    seen: dict[Path, Path] = {}
    for result in results:
        if result.file.resolve() in seen:
            raise ValueError(f"{result.file} is given twice: a run counts once")
        seen[result.file.resolve()] = result.file
    return results


def _read_one(file: Path) -> Result:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["rows"][0]["metrics"].items()
        weights = content.get("weights") or {}
        # RUN/evaluation.json, RUN/eval/*.json, or what --out put elsewhere: by the file it evaluated, in RUN.
        near = [*file.parents[:2], *Path(weights.get("file", "")).parents[:3]]
        run = next((folder for folder in near if (folder / "recipe.json").is_file()), None)
        if run is None:
            return Result(file, file, Path(weights["file"]).stem, {"sha256": weights["sha256"][:8]}, {}, content)
        record = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        described = {name: value for name, value in record["described"].items() if name != "seed"}
        knobs = {name: value for name, value in record.get("knobs", {}).items() if name != "seed"}
        return Result(file, run, str(record["recipe"]), knobs, _flat(described), content)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no result of eval_linear.py that this version reads: {type(error).__name__}: {error}"
        ) from None


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v for name, item in value.items() for k, v in _flat(item, f"{path}.{name}" if path else name).items()
        }
    return {path: json.dumps(value) if isinstance(value, list) else value}


def values_of(results: Sequence[Result], encoder: str) -> dict[str, list[Value]]:
    """Returns each metric's values, one a run, by the name of its column ("imagenet-a: linear-cached/top1").

    Raises:
        ValueError: no result has a row of that encoder, or a run has two values of one metric.
    """
    columns: dict[str, list[Value]] = {}
    for result in results:
        for row in result.content["rows"]:
            if row["encoder"] != encoder:
                continue
            images = row.get("images", "")
            for metric, found in row["metrics"].items():
                interval = found.get("interval")
                ends = (interval[0], interval[1]) if interval else None
                value = Value(result, found["mean"], ends, found.get("num_images"), _facts(result, metric, images))
                column = columns.setdefault(f"{images}: {metric}" if images else metric, [])
                same = [other for other in column if other.result.run == result.run]
                if not same:
                    column.append(value)
                elif same[0].mean != value.mean or same[0].facts != value.facts:
                    raise ValueError(
                        f"{same[0].result.file} and {result.file} are of one run and differ in {metric}: name the one "
                        "that is meant instead of the folder"
                    )
    if not columns:
        names = dict.fromkeys(row["encoder"] for result in results for row in result.content["rows"])
        raise ValueError(f"no result has a row called {encoder!r}: there are {', '.join(names)}")
    return columns


def _facts(result: Result, metric: str, images: str) -> dict[str, Any]:
    content = result.content
    # k-NN stands beside any probe, and its name says all of it.
    facts = {} if metric.startswith("knn-") else {"protocol": content.get("protocol")}
    facts["view"] = content.get("view")
    if images:
        further = [*content.get("further_tests", []), *content.get("transfers", [])]
        about = next(({**other} for other in further if other["name"] == images), {})
        about.pop("folder", None)  # the same images may lie elsewhere on another machine
        return facts | about
    facts |= {name: content.get(name) for name in IMAGES}
    facts |= {f"number of {name}": len(content.get(name) or ()) for name in NAMES}
    return facts | {name: content.get(name) for name in NAMES}


def check_alike(column: str, values: Sequence[Value]) -> None:
    """Raises:
    ValueError: two runs' values are of other protocols, images or views, naming both and the first difference.
    """
    for value in values[1:]:
        if different := first_difference(dict(values[0].facts), dict(value.facts)):
            raise ValueError(
                f"{column} of {values[0].result.file} ('there') and of {value.result.file} ('here') cannot stand in "
                f"one column: {different}"
            )
