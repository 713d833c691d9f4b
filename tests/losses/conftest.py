"""Every exported loss with its defaults, and variants that set each field: what the tests of all losses run over."""

import dataclasses
import math
import textwrap

import pytest

import losses

VARIANTS = [
    losses.BarlowTwins(lambd=0.3, scale=0.024),
    losses.VICReg(invariance=3.0, variance=7.0, covariance=2.0, eps=0.01),
    losses.NPairs(temperature=1.0, symmetric=False),
    losses.SigLIP(initial_scale=4.0, initial_bias=-1.0),
    losses.NTXent(temperature=0.5),
    losses.SampleCorrelation(lambd=0.2, scale=2.0, divisor="samples"),
]
DEFAULTS = [value() for value in vars(losses).values() if dataclasses.is_dataclass(value)]


@pytest.fixture(params=DEFAULTS + VARIANTS, ids=str)
def loss(request):
    return request.param


def run_slow_loop(loss, a, b, **learned):
    """Runs the loop at the end of the loss's docstring on plain Python floats and returns its terms.

    learned: numbers beside the embeddings, such as scale and groups; None where not given.
    """
    text = type(loss).__doc__.partition("Equals this slow loop::\n")[2]
    assert text.strip(), f"the docstring of {type(loss).__name__} does not end with its slow loop"
    names = {"scale": None, "bias": None, "groups": None, **dataclasses.asdict(loss), **learned}
    names |= {"N": len(a), "D": a.shape[1], "a": a.tolist(), "b": b.tolist()}
    names |= {name: getattr(math, name) for name in ("sqrt", "exp", "log")}
    exec(textwrap.dedent(text), names)
    return names["terms"]


@pytest.fixture
def slow():
    return run_slow_loop
