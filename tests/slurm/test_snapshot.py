"""A snapshot holds the code as it was; the same code shares a folder, and a job keeps the one it started with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from slurm import history, snapshot


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name in ("pretrain.py", "losses/x.py", "tests/test_x.py", "benchmarks/b.py", ".venv/lib/y.py", "runs/r/z.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    (root / ".gitignore").write_text("/runs/\n")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (("init", "-q"), ("add", "pretrain.py", ".gitignore"), ("commit", "-qm", "first")):
        subprocess.run((*git, *words), cwd=root, check=True)
    return root


def test_what_is_taken(repository: Path, tmp_path: Path) -> None:
    (repository / "pretrain.py").write_text("edited\n")
    folder = snapshot.take(tmp_path / "run", repository)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"pretrain.py", "losses/x.py", "snapshot.json"}  # untracked too, but nothing that git ignores
    assert (folder / "pretrain.py").read_text() == "edited\n"
    about = json.loads((folder / "snapshot.json").read_text())
    assert len(about["commit"]) == 40
    assert "+edited" in about["diff"]
    assert folder.name == f"code-{about['digest'][:12]}"


def test_equal_code_shares_a_folder_and_an_edit_does_not(repository: Path, tmp_path: Path) -> None:
    first = snapshot.take(tmp_path / "run", repository)
    assert snapshot.take(tmp_path / "run", repository) == first
    (repository / "losses" / "x.py").write_text("edited\n")
    assert snapshot.take(tmp_path / "run", repository) != first
    assert (first / "losses" / "x.py").read_text() == "# losses/x.py\n"


def test_a_job_keeps_what_it_started_with(repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = snapshot.of_job(run, "7", repository)
    (repository / "pretrain.py").write_text("edited\n")
    assert snapshot.of_job(run, "7", repository) == first
    assert snapshot.of_job(run, "8", repository) != first


def test_without_git_it_works_too(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    (root / "losses").mkdir(parents=True)
    (root / "losses" / "x.py").write_text("x\n")
    folder = snapshot.take(tmp_path / "run", root)
    assert (folder / "losses" / "x.py").exists()


def test_a_folder_that_cannot_be_written_is_named(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"file cannot be written"):
        snapshot.take(tmp_path / "file", repository)


def test_the_history_survives_a_torn_line(tmp_path: Path) -> None:
    history.append(tmp_path, "start", step=0)
    with (tmp_path / "slurm" / "history.jsonl").open("a") as file:
        file.write('{"event": "st')
        file.write("\n")
    history.append(tmp_path, "failed", progress=False)
    assert [line["event"] for line in history.read(tmp_path)] == ["start", "failed"]
    assert history.fruitless_failures(tmp_path) == 1
    history.append(tmp_path, "failed", progress=False)
    assert history.fruitless_failures(tmp_path) == 2
    history.append(tmp_path, "submitted")
    assert history.fruitless_failures(tmp_path) == 0
