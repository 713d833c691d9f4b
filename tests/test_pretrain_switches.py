"""Switches of pretrain.py: --compile and --recompute change no loss; --views, clip_grad and --wandb do as they say."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.runs import QUIET, STEPS, TINY, change_recipes, finish, losses, run, start, wait_for_step, weights
from tests.wandb_logs import kept_id, mirrored, steps

Main = Callable[[list[str]], int]
HERE = [*TINY, "--workers", "0", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # a minute of a core for the compiler, where torch's cache is empty
def test_a_compiled_encoder_gives_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64: in float32 training amplifies the compiler's own rounding to some 0.5 % in ten steps."""
    monkeypatch.setenv("TORCH_LOGS", "graph_code")
    flags = [*HERE, "--epochs", "1", "--precision", "fp64", "--no-evaluate"]
    flags += ["--heatmap-every", "5"]  # in eval mode, which is compiled apart
    for out, switches in ((tmp_path / "plain", []), (tmp_path / "compiled", ["--compile"])):
        code, text = finish(start(out, *flags, *switches), timeout=500)
        assert code == 0, text
        assert ("TRACED GRAPH" in text) == bool(switches)  # it was compiled indeed
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert sorted(plain) == list(range(1, STEPS // 2 + 1))
    assert compiled == pytest.approx(plain, rel=1e-9)


def test_recomputed_activations_give_the_same_losses_and_weights(main: Main, tmp_path: Path) -> None:
    """To the bit, BatchNorm's statistics included; and the blocks did run twice."""
    calls: Counter[str] = Counter()
    for name, switches in (("plain", []), ("recomputed", ["--recompute"])):

        def count(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            calls[name] += isinstance(module, nn.Conv2d)

        handle = register_module_forward_hook(count)
        try:
            assert main(["demo", "--out", str(tmp_path / name), *HERE, *QUIET, *switches]) == 0
        finally:
            handle.remove()
    assert len(losses(tmp_path / "plain")) == STEPS
    assert losses(tmp_path / "recomputed") == losses(tmp_path / "plain")
    assert weights(tmp_path / "recomputed") == weights(tmp_path / "plain")
    assert 1.5 * calls["plain"] < calls["recomputed"] < 2 * calls["plain"]  # the stem is in no block


def test_compressing_alone_changes_nothing_and_says_so(
    main: Main, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), *HERE, *QUIET, "--compress-gradients"]) == 0
    assert capsys.readouterr().err.count("--compress-gradients: one process exchanges none") == 1
    assert losses(tmp_path) == losses(undisturbed)


def test_cudnn_chooses_by_rule_unless_asked_to_time(
    main: Main, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, False)  # put back afterwards
    for flag, by_rule in ((["--no-deterministic"], False), ([], True)):
        assert main(["demo", "--out", str(undisturbed), *HERE, *QUIET, *flag]) == 0
        assert torch.backends.cudnn.deterministic is by_rule
        assert torch.backends.cudnn.benchmark is not by_rule


def test_who_makes_the_views_is_part_of_the_run(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that are older than the switch say nothing of it, and go on with --views reference."""
    command = {name: ["demo", "--out", str(tmp_path / name), *HERE, *QUIET] for name in ("fast", "reference")}
    for name, noted in (("fast", "fast"), ("reference", None)):
        assert main([*command[name], "--epochs", "1", "--views", name]) == 0
        described = json.loads((tmp_path / name / "recipe.json").read_text())["described"]
        assert described.get("view_execution") == noted
    assert losses(tmp_path / "fast")[1] == pytest.approx(losses(tmp_path / "reference")[1], rel=0.01)
    assert losses(tmp_path / "fast") != losses(tmp_path / "reference")
    for name, other in (("fast", "reference"), ("reference", "fast")):
        assert main([*command[name], "--epochs", "1", "--views", other]) == 2
        assert f"or --views {name}\n" in capsys.readouterr().err


def test_clip_grad_limits_the_norm_of_what_the_optimiser_sees(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No recipe has a knob for it yet, so it is set on the demo's."""

    def train(limit: float | None) -> list[torch.Tensor]:
        """Returns the whole gradient of each step, as the optimiser meets it."""
        seen: list[torch.Tensor] = []

        def see(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            parts = [p.grad.double().flatten() for group in optimizer.param_groups for p in group["params"]]
            seen.append(torch.cat(parts))

        handle = register_optimizer_step_pre_hook(see)
        try:
            with monkeypatch.context() as patch:
                change_recipes(patch, clip_grad=limit)
                assert main(["demo", "--out", str(tmp_path / str(limit)), *HERE, *QUIET]) == 0
        finally:
            handle.remove()
        return seen

    free, clipped, roomy = train(None), train(1e-3), train(1e9)
    assert len(free) == len(clipped) == len(roomy) == STEPS
    assert min(float(gradient.norm()) for gradient in free) > 1  # the limit has something to cut
    for gradient in clipped:
        assert 0.99e-3 < float(gradient.norm()) <= 1e-3 * (1 + 1e-5)
    torch.testing.assert_close(clipped[0] / clipped[0].norm(), free[0] / free[0].norm())  # shorter, not turned
    assert weights(tmp_path / "0.001") != weights(tmp_path / "None")
    assert losses(tmp_path / "1000000000.0") == losses(tmp_path / "None")  # a limit that is never met


def test_wandb_mirrors_the_run_and_a_resumed_run_is_the_same_one(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out = tmp_path / "mirrored"
    flags = [*TINY, "--no-evaluate", "--heatmap-every", "5", "--workers", "0", "--wandb", "offline"]
    flags += ["--wandb-project", "some-project"]
    process = start(out, *flags)
    wait_for_step(out, 3, process)
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code == 75, text
    first_id = kept_id(out)
    code, text = run(out, *flags)
    assert code == 0, text
    assert "wandb:" not in text  # nothing failed, and nothing fell back

    assert kept_id(out) == first_id
    logs = mirrored(out)
    assert [log["run"][0]["run_id"] for log in logs] == [first_id] * 2
    assert {log["run"][0]["project"] for log in logs} == {"some-project"}
    assert {log["run"][0]["display_name"] for log in logs} == {"mirrored"}
    assert [log["exit"][0]["exit_code"] for log in logs] == [75, 0]
    assert steps(logs[0]) + steps(logs[1]) == list(range(1, STEPS + 1))
    history = [line["item"] for log in logs for line in log["history"]]
    assert {item["step"]: item["loss"] for item in history if "loss" in item} == losses(undisturbed)
    drawn = Counter(path.read_bytes() for path in out.glob("heatmaps/*/step_*.png"))
    assert sum(drawn.values()) == 3 * 3  # matrices, steps 0, 5 and 10
    assert Counter(path.read_bytes() for path in out.glob("wandb/*run-*/files/media/images/*.png")) == drawn
    config = logs[0]["run"][0]["config"]["update"]
    described = json.loads((out / "recipe.json").read_text())["described"]
    assert {key: value for key, value in config.items() if key != "_wandb"} == described
