"""A heartbeat is whole whenever it is read, cheap, and never the reason that a run stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diagnostics.heartbeat import NAME, Heartbeat


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def beat(folder: Path) -> dict:
    return json.loads((folder / NAME).read_text())


def test_it_says_where_the_run_stands(tmp_path: Path) -> None:
    clock = Clock()
    heartbeat = Heartbeat(tmp_path, total_steps=100, images_per_step=64, attempt=2, interval=5, clock=clock)
    heartbeat.beat(10)
    first = beat(tmp_path)
    assert (first["step"], first["total_steps"], first["attempt"], first["phase"]) == (10, 100, 2, "training")
    assert first["seconds_left"] is None  # one beat has no rate
    clock.now += 10
    heartbeat.beat(30)
    second = beat(tmp_path)
    assert second["images_per_second"] == pytest.approx(20 * 64 / 10)
    assert second["seconds_left"] == pytest.approx(70 / 2)


def test_between_two_beats_nothing_is_written_but_a_new_phase_is(tmp_path: Path) -> None:
    clock = Clock()
    heartbeat = Heartbeat(tmp_path, 100, 64, 1, interval=5, clock=clock)
    heartbeat.beat(1)
    clock.now += 4
    heartbeat.beat(2)
    assert beat(tmp_path)["step"] == 1
    heartbeat.beat(3, "stopped")
    assert (beat(tmp_path)["step"], beat(tmp_path)["phase"]) == (3, "stopped")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    Heartbeat(tmp_path / "gone", 100, 64, 1).beat(1)
    assert not (tmp_path / "gone").exists()
