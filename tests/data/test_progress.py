"""The progress line: how much, how fast, how long still; nothing for what is soon over."""

from __future__ import annotations

import pytest

from data.progress import progress


def test_the_line_says_how_much_how_fast_and_how_long_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("data.progress.time.monotonic", lambda: next(clock))
    assert list(progress([2_000_000] * 8, 16_000_000, "copying", lambda size: size, "B")) == [2_000_000] * 8
    assert capsys.readouterr().err.splitlines() == [
        "copying: 6.00MB/16.0MB, 200kB/s, 00:50 left",
        "copying: 12.0MB/16.0MB, 200kB/s, 00:20 left",
    ]
    clock = iter(range(0, 1000, 10))
    assert list(progress("abcd", 4, "counting")) == list("abcd")
    assert capsys.readouterr().err == "counting: 3/4, 0.1/s, 00:10 left\n"
