"""The benchmarks of the training step and of start-up run at toy size, so that they never rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import lars


def test_lars_is_compared_to_the_bit_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--backbone", "test_resnet", "--steps", "2", "--repeats", "2"]
    result = lars.main([*sizes, "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert result["official"] == "our transcription of the rule"
    assert result["counts"]["ours"]["calls"] <= 30 < result["counts"]["official"]["calls"]
    assert result["counts"]["ours"]["waits"] == 0
    assert "equal to the bit after 2 steps" in capsys.readouterr().out


def test_lars_refuses_to_measure_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = lars.Transcription.step

    def other(self: lars.Transcription) -> None:
        kept(self)
        self.param_groups[0]["params"][0].data.mul_(1.001)

    monkeypatch.setattr(lars.Transcription, "step", other)
    with pytest.raises(AssertionError, match="1 tensors differ"):
        lars.main(["--backbone", "test_resnet", "--steps", "1"])
