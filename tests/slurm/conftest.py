"""Fixtures that give tests a real Slurm (`cluster.py`); where it is not installed they skip, or fail if CI is set."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.netns import NetnsCluster

RUNNING: list[Cluster] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that start a cluster; the others of this folder need no Slurm."""
    for item in items:
        if {"cluster", "make_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slurm")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Shows the ends of Slurm's logs with a failed test."""
    report = (yield).get_result()
    if report.failed:
        report.sections += [("Slurm", cluster.logs()) for cluster in RUNNING]


@contextmanager
def running(session: pytest.Session, net: str = "loopback", **options: Any) -> Iterator[Cluster]:
    """Gives a running cluster; its logs are kept if a test fails meanwhile. `net`: "loopback" or "netns"."""
    kind = {"loopback": Cluster, "netns": NetnsCluster}[net]
    if (reason := Cluster.missing()) and os.environ.get("CI"):
        pytest.fail(reason)  # a run that is to prove something must not pass by skipping
    if reason := reason or kind.missing():
        pytest.skip(reason)
    failed = session.testsfailed
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # tmp_path is too long for sockets
    with kind(folder, **options) as cluster:
        RUNNING.append(cluster)
        yield cluster
        RUNNING.remove(cluster)
    if session.testsfailed == failed:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Gives the cluster that tests share: default options, two nodes. Jobs that a test leaves are ended after it."""
    with running(request.session) as cluster:
        yield cluster


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """Gives a function: options of `Cluster`, or net="netns" too -> such a cluster, running until the test ends."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(request.session, **options))


@pytest.fixture(autouse=True)
def _no_jobs_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        cluster = request.getfixturevalue("cluster")
        end = time.monotonic() + 60
        while jobs := cluster.command("squeue", "-h", "-o", "%A").split():
            cluster.command("scancel", "--full", "--signal=KILL", *jobs, check=False)
            cluster.command("scancel", *jobs, check=False)
            assert time.monotonic() < end, f"jobs {jobs} do not end"
            time.sleep(0.1)
