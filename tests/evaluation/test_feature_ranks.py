"""Evaluation on two ranks: every image once, wherever it is uneven; one of them speaks; bad input of one ends both."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import eval_linear
from augmentations import Center
from data import BadImage
from data.sets import Pixels as Images
from evaluation import features
from evaluation.command import parse
from evaluation.features import Extractor
from evaluation.protocols import find
from parallel import World
from tests.evaluation.conftest import write_run
from tests.ranks import run_ranks
from training import stop

NUM, SIZE = 23, 2


class Mark(nn.Module):
    """The first pixel: which image it is. Counts what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x):
        mark = x[:, 0, 0, :1] * 255
        self.seen += [round(float(value)) for value in mark]
        return mark


def marks(bad: int | None = None) -> Images:
    array = np.zeros((NUM, 4, 4, 3), np.uint8)
    array[:] = np.arange(NUM)[:, None, None, None]
    made = Images(Path("marks"), ("a", "b"), array, np.arange(NUM) % 2)
    original = made.image

    def image(index):
        if index == bad:
            raise BadImage(f"{made.name(index)}: planted")
        return original(index)

    made.image = image
    return made


def share(world: World, folder: Path) -> list[tuple[list[float], list[int]]]:
    """Returns, for blocks of 4, 11 and 30 rows, in memory and twice on disk, (features, what this rank has seen)."""
    view, results = Center(resize=None, size=4, mean=(0, 0, 0), std=(1, 1, 1)), []
    for rows in (4, 11, 30):
        features.ROWS = rows
        for place in (None, folder / str(rows), folder / str(rows)):
            encoder = Mark()
            found, labels = Extractor({"it": encoder}, view, world, 0, 3, place)(marks())
            assert labels.tolist() == [i % 2 for i in range(NUM)]
            results.append((found["it"][:, 0].tolist(), encoder.seen))
    features.ROWS = 4
    for bad, place in ((21, None), (21, folder / "bad"), (0, folder / "bad")):
        with pytest.raises(ValueError, match=rf"marks\[{bad}\]: planted"):
            Extractor({"it": Mark()}, view, world, 0, 3, place)(marks(bad))
    features.stop.heed = stopped if world.rank == 1 else lambda: None
    with pytest.raises(stop.Stopped, match="planted"):
        Extractor({"it": Mark()}, view, world)(marks())
    features.stop.heed = lambda: None
    return results


def stopped() -> None:
    raise stop.Stopped("planted")


def command(world: World, argv: list[str], missing_on: int | None = None) -> tuple[str, str]:
    """Returns (what eval_linear.py prints on this rank, how it is refused).

    Args:
        missing_on: the rank that does not see the images.
    """
    if world.rank == missing_on:
        argv = [*argv, "--data", "absent"]
    args, refused = parse(argv, ""), ""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            eval_linear.evaluate_all(args, find("cached", 2), world)
        except ValueError as error:
            refused = str(error)
    return out.getvalue(), refused


def both(world: World, folder: Path) -> dict[str, Any]:
    run, flags = folder / "run", ["--workers", "0", "--device", "cpu", "--knn-k", "3", "--seeds", "1"]
    argv = ["--run", str(run), *flags, "--out", str(folder / "two.json")]
    return {
        "share": share(world, folder),
        "refused": command(world, argv, missing_on=1),
        "command": command(world, argv),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_run(folder / "run", images)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_ranks(both, SIZE, folder)


def test_every_image_once_and_in_its_place(ranks):
    cases = list(zip(*(rank["share"] for rank in ranks), strict=True))
    for case in cases:
        for found, _ in case:
            assert found == list(range(NUM))
        assert sorted(image for _, own in case for image in own) in (list(range(NUM)), [])
    assert [any(own for _, own in case) for case in cases] == [True, True, False] * 3  # the third comes from disk
    assert [[len(own) for _, own in case] for case in cases[::3]] == [[12, 11], [12, 11], [23, 0]]


def test_the_main_rank_prints_and_writes_what_one_process_would(ranks, folder):
    argv = ["--run", str(folder / "run"), "--workers", "0", "--device", "cpu", "--knn-k", "3", "--seeds", "1"]
    assert eval_linear.main([*argv, "--epochs", "2", "--out", str(folder / "one.json")]) == 0
    one, two = (json.loads((folder / name).read_text()) for name in ("one.json", "two.json"))
    for ours, alone in zip(two["rows"], one["rows"], strict=True):
        assert ours.pop("diagnostics") == pytest.approx(alone.pop("diagnostics"), rel=1e-3)  # of products' roundings
        assert ours == alone
    assert (one["processes"], two["processes"]) == (1, 2)
    (out, refused), (other, _) = (rank["command"] for rank in ranks)
    assert refused == ""
    assert out.count("linear-cached-2ep/top1 ") == 1
    assert other == ""


def test_what_one_rank_does_not_find_ends_both(ranks):
    for rank in ranks:
        out, refused = rank["refused"]
        assert out == ""
        assert "--data absent: no such folder" in refused
