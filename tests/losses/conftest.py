"""Every exported loss with its defaults, and variants that set each field: what the tests of all losses run over."""

import dataclasses

import pytest

import losses

VARIANTS = [
    losses.BarlowTwins(lambd=0.3, scale=0.024),
    losses.VICReg(invariance=3.0, variance=7.0, covariance=2.0, eps=0.01),
    losses.NPairs(temperature=1.0, symmetric=False),
    losses.NTXent(temperature=0.5),
    losses.SampleCorrelation(lambd=0.2, scale=2.0, divisor="samples"),
]
DEFAULTS = [value() for value in vars(losses).values() if dataclasses.is_dataclass(value)]


@pytest.fixture(params=DEFAULTS + VARIANTS, ids=str)
def loss(request):
    return request.param
