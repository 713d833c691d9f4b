"""Fixtures of the tests of data."""

import pytest

from data.shapes import ShapesSet


@pytest.fixture(scope="session")
def images() -> ShapesSet:
    """Returns 600 generated pictures; for reading only."""
    return ShapesSet("train", 600)
