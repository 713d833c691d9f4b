"""What every loss does with its inputs before the maths: precision, shapes, learned scalars and groups of rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .ranks import ALONE, Ranks

P = ParamSpec("P")
R = TypeVar("R")


def at_least_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Returns `function` with its half-precision tensors promoted to float32 and autocast switched off inside it.

    float32 and float64 stay as they are. Without the switch a matrix product inside an autocast region would run in
    bfloat16 or float16 although its inputs are float32.
    """

    @functools.wraps(function)
    def promoted(*args: P.args, **kwargs: P.kwargs) -> R:
        values: list[Any] = [_promote(value) for value in args]
        named: dict[str, Any] = {name: _promote(value) for name, value in kwargs.items()}
        devices = [value.device.type for value in (*values, *named.values()) if isinstance(value, Tensor)]
        if not devices:  # a wrong call: Python's own message names what is missing
            return function(*args, **kwargs)
        if not torch.is_autocast_enabled(devices[0]):  # at tiny sizes the switch is a tenth of a loss's time
            return function(*values, **named)
        with torch.autocast(devices[0], enabled=False):
            return function(*values, **named)

    return promoted


def _promote(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 4
    return value.float() if half else value


def check_pair(a: Tensor, b: Tensor, ranks: Ranks = ALONE) -> None:
    """Checks that two views can be compared row by row.

    Raises:
        ValueError: unless both are floating-point (n, D) of the same shape and type with N >= 2 rows on all ranks and
            D >= 1.
    """
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] * ranks.size < 2 or a.shape[1] < 1:
        raise ValueError(
            f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            "a loss of two views needs (N, D) twice, with the same N >= 2 rows and D >= 1 features"
        )
    if a.dtype != b.dtype or not a.is_floating_point():
        raise ValueError(f"embeddings have types {a.dtype} and {b.dtype}; both must be the same floating-point type")


def scalar(name: str, value: Tensor | None, default: float, like: Tensor) -> Tensor:
    """Returns a learned number, or its default where there is none: a tensor (), of the type of `like` and beside it.

    Raises:
        ValueError: unless `value` is None or a floating-point tensor (); `name` says which it is.
    """
    if value is None:
        return torch.full((), default, dtype=like.dtype, device=like.device)
    if not isinstance(value, Tensor) or value.ndim != 0 or not value.is_floating_point():
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{name} is {found}; it must be None or a floating-point tensor of shape (), such as log_scale.exp()"
        )
    return value.to(like.dtype)


def group_numbers(groups: Tensor | None, like: Tensor) -> Tensor:
    """Returns (N,) numbers in the type of `like` (N, D), equal where `groups` (N,) are; without groups all different.

    Floating point, since a mask of 0.0 and 1.0 from floats takes a tenth of the time of one from int64; small, so that
    they are exact (float32 up to 2^24 rows); by sorting, since `unique` makes the host wait for a GPU.

    Raises:
        ValueError: unless `groups` is None or int64 (N,).
    """
    if groups is None:
        return torch.arange(len(like), dtype=like.dtype, device=like.device)
    if groups.shape != like.shape[:1] or groups.dtype != torch.int64:
        raise ValueError(
            f"groups are {groups.dtype} {tuple(groups.shape)} for embeddings {tuple(like.shape)}; "
            "they must be int64 (N,), one number a row"
        )
    ordered, order = groups.sort()
    number = (ordered[1:] != ordered[:-1]).cumsum(0).to(like.dtype)
    return like.new_zeros(len(like)).scatter_(0, order[1:], number)
