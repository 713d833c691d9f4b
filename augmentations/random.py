"""Random numbers of one sample's view, as a function of which sample and view it is and of nothing else.

Workers, ranks, the order of calls and a resume then cannot change what a sample looks like, and nothing need be stored.
Only whole numbers and `random.Random.random()` are used: Python promises that sequence for a given seed in every
version ("Notes on Reproducibility" in its `random` page), and promises it for no other method.
"""

from __future__ import annotations

import random
from operator import index
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # arrays are computed with here, never made
    import numpy as np

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: the step of splitmix64


def mix(*integers: int) -> int:
    """A 64-bit key of the given integers, in their order; neighbouring integers give unrelated keys.

    One round of splitmix64 for each integer, so `mix(seed)` is the first output of splitmix64 started at `seed`. One
    integer never collides with another (a round is a bijection of 64 bits); several collide as random 64-bit numbers
    do. Keys for different purposes are kept apart by a constant put first: `mix(PURPOSE, seed, step)`.

    Raises: ValueError where an integer is outside 0 .. 2**64 - 1; TypeError where it is not an integer.
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, and S. Vigna's
    splitmix64.c (its constants); the chaining over several integers is ours.
    """
    key = 0
    for integer in integers:
        integer = index(integer)
        if not 0 <= integer <= _MASK:
            raise ValueError(f"mix takes integers from 0 to 2**64 - 1, not {integer} (given: {integers})")
        key = _round(key + integer)
    return key


def mix_each(*integers: int, last: np.ndarray) -> np.ndarray:
    """`[mix(*integers, i) for i in last]` for integers (N,) uint64, as (N,) uint64: a million in 0.01 s.

    Raises: as `mix`; TypeError where `last` is not uint64.
    """
    if last.dtype != "uint64":
        raise TypeError(f"mix_each takes last as uint64, whose arithmetic wraps at 2**64, not as {last.dtype}")
    return _round(last + mix(*integers))


def _round(x: Any) -> Any:
    """One round of splitmix64, of an integer or of each element of a uint64 array."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def sample_random(seed: int, epoch: int, sample: int, view: int) -> random.Random:
    """The generator of one view of one sample in one epoch; draw from it by `.random()` only (see the top).

    seed: of the run. epoch, sample (position in the data set, not in the batch), view: counted from 0.

    Raises: as `mix`.
    """
    return random.Random(mix(seed, epoch, sample, view))
