"""The benchmarks of the training step and of start-up run at toy size, so that they never rot."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks import gpu, lars, loop, profile, startup
from benchmarks.generated import make_images
from objectives import JointEmbedding
from training import stop

DEMO = ["demo", "--images", "80", "--batch-size", "16", "--workers", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _killable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "block", lambda: None)  # the test process should stay so


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


def test_profile_shares_a_step_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = profile.main([*DEMO, "--steps", "2", "--warmup", "1", "--json", str(tmp_path / "out.json")])
    assert code == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert [list(parts) for parts in written["steps"]] == [list(loop.PARTS)] * 2
    assert written["rows"] == 16
    for parts in written["steps"]:
        assert all(parts[part] > 0 for part in loop.PARTS if part != "copy")  # each seam is found; a CPU copies nothing
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[-9:]] == [*loop.PARTS, "step"]


def test_profile_says_what_pretrain_says_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert profile.main(["demo", "--imags", "3"]) == 2
    assert "--images" in capsys.readouterr().err


def test_time_is_given_to_the_part_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the optimiser's update and the loss move on."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    terms = JointEmbedding.terms

    def slow_update(*_: Any) -> None:
        now[0] += 3

    def slow_terms(*arguments: Any) -> dict[str, torch.Tensor]:
        now[0] += 2
        return terms(*arguments)

    monkeypatch.setattr(JointEmbedding, "terms", slow_terms)
    handle = register_optimizer_step_pre_hook(slow_update)
    try:
        found = loop.run(DEMO, steps=2, warmup=1, model_only=True)
    finally:
        handle.remove()
    assert found.steps == [dict.fromkeys(loop.PARTS, 0.0) | {"loss": 2.0, "optimiser": 3.0}] * 2


def test_a_run_of_the_loop_ends_with_its_recipe() -> None:
    assert len(loop.run([*DEMO, "--epochs", "1"], steps=100, warmup=1).steps) == 3  # five; the last never ends
    with pytest.raises(RuntimeError, match="5 steps"):
        loop.run([*DEMO, "--epochs", "1"], steps=1, warmup=5)


def test_every_gpu_goal_is_measured_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--toy", "--json", str(tmp_path / "out.json")]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written["rows"]) == set(gpu.ROWS)
    shown = capsys.readouterr().out
    assert shown.count("\n| G") == len(gpu.ROWS)
    assert "not measured" not in shown
    assert written["images"] == "32 generated JPEGs"


def test_a_run_that_fails_or_takes_too_long_leaves_the_others_alone(tmp_path: Path) -> None:
    found = {"vit": {"rows": 4, "steps": [dict.fromkeys(loop.PARTS, 0.125)] * 2}}
    options = SimpleNamespace(toy=False, batch_size=4, steps=1, workers=0, official=None)
    run = gpu.Run("resnet50", profile, ("demo", "--imags", "3"), 60)
    found["resnet50"] = gpu.execute(run, 60, isolated=True)
    assert "exit code 2" in found["resnet50"]["failed"]
    assert "took more than" in gpu.execute(run, 0.1, isolated=True)["failed"]
    rows = {line.split(" | ")[0].strip("| "): line for line in gpu.table(found).splitlines()[2:]}
    assert "| 4 images/s" in rows["G2"]
    assert "resnet50: exit code 2" in rows["G3 ResNet-50"]
    assert "--compile" in gpu.runs(options, tmp_path)[-1].command()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_its_rows_are_owed(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 0
    assert capsys.readouterr().out.count("owed: `python -m benchmarks.gpu") == len(gpu.ROWS)


def test_start_up_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path, 20, toy=True)
    small = ["--size", "32", "--width", "32", "--batch-size", "4", "--workers", "0", "--backbone", "test_resnet"]
    whole, of_the_input = startup.start(["barlow_twins_rn50", "--data", str(tmp_path), *small, "--device", "cpu"])
    assert 0 < of_the_input < whole
    calls = {startup.IMPORT: (2.0, 1.0), startup.HELP: (3.0, 1.25)}
    monkeypatch.setattr(
        startup, "taken", lambda command: calls[startup.HELP if "--help" in command else startup.IMPORT]
    )
    assert startup.help_ratios("demo", 2) == {"wall": [1.5, 1.5], "cpu": [1.25, 1.25]}
