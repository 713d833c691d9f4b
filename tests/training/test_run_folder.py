"""The record of a run's attempts: nodes, and each rank's versions where they differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training import run_folder
from training.run_folder import describe_host, different_versions, find_run, open_run, record_attempt


def host(name: str, **versions: str) -> dict:
    return {"host": name, "versions": {"torch": "2.15.0", "timm": "1.0.31"} | versions, "hardware": {}}


def test_ranks_with_other_versions_are_named_and_recorded(tmp_path: Path) -> None:
    hosts = [host("n1"), host("n1"), host("n2", torch="2.11.0"), host("n3", torch="2.12.0")]
    assert different_versions(hosts) == ["torch is 2.15.0 on n1 but 2.11.0 on n2, 2.12.0 on n3"]
    assert record_attempt(tmp_path, hosts, {"data": Path("D")}) == 1
    assert record_attempt(tmp_path, hosts[:2], {"data": None}) == 2
    first, second = json.loads((tmp_path / "environment.json").read_text())["attempts"]
    assert first["nodes"] == ["n1", "n2", "n3"]
    assert first["world_size"] == 4
    assert set(first["other_versions"]) == {"2", "3"}
    assert first["place"]["data"] == "D"
    assert second["other_versions"] == {}


def test_equal_versions_are_no_news() -> None:
    assert different_versions([host("n1"), host("n2")]) == []


def test_a_host_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    found = describe_host(torch.device("cpu"))
    assert found["host"] == "n7"
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    json.dumps(found)


def test_the_code_of_a_snapshot_is_that_of_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "snapshot.json").write_text('{"digest": "abc", "commit": "def", "diff": ""}')
    monkeypatch.setattr(run_folder, "REPOSITORY", tmp_path)
    record_attempt(tmp_path, [host("n1")], {})
    assert json.loads((tmp_path / "environment.json").read_text())["attempts"][0]["git"]["digest"] == "abc"


def test_looking_for_a_run_writes_nothing(tmp_path: Path) -> None:
    assert find_run(tmp_path / "new", "demo", {}) is False
    assert list(tmp_path.iterdir()) == []


def test_what_a_launcher_leaves_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / ".rendezvous").mkdir()
    assert open_run(tmp_path, "demo", {}, {"seed": 0}, "") is False
    assert open_run(tmp_path, "demo", {}, {"seed": 0}, "") is True
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        find_run(tmp_path, "demo", {"seed": 1})
