"""The learning rate as a pure function of the step: nothing to store, so a resumed run has it by construction."""

import math

import torch


def learning_rate(step: int, total_steps: int, warmup_steps: int, final_fraction: float = 0.001) -> float:
    """The share of the peak learning rate at a step, in [0, 1]: linear from 0, then half a cosine to `final_fraction`.

    The peak is reached at `step == warmup_steps`; `final_fraction` itself would be reached at `total_steps`, one step
    after the last.

    Args:
        step: number of updates already made, 0 <= step < total_steps.
        total_steps: length of the run in updates.
        warmup_steps: length of the linear part in updates; 0 for none.
        final_fraction: of the peak, where the cosine ends.

    Raises:
        ValueError: a step outside the run, a warm-up longer than the run, a fraction outside [0, 1].

    Source: facebookresearch/barlowtwins@8e8d284 main.py, vicreg@4e12602 main_vicreg.py (`adjust_learning_rate`).
    """
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"the warm-up is {warmup_steps} steps long: must be between 0 and the run's {total_steps}")
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside the run: must be between 0 and {total_steps - 1}")
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction is {final_fraction}: must be between 0 and 1")
    if step < warmup_steps:
        return step / warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
    return cosine + final_fraction * (1 - cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's `lr` to `factor` times its `peak_lr`. A Python float: an optimiser reads it without a sync."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]
