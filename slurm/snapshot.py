"""The code of a run as it was when it was submitted, so that later edits change nothing of it, requeued or not.

    python slurm/snapshot.py RUN [--job ID]      prints the folder; the same job gets the same one at every start

A snapshot is RUN/slurm/code-<digest>/: every Python file of the repository but tests and benchmarks, and
`snapshot.json` with the digest, the commit and what differed from it. Equal code shares one folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path

from slurm import history

REPOSITORY = Path(__file__).resolve().parents[1]
LEFT_OUT = ("tests", "benchmarks", "build")
DIFF_LIMIT = 1_000_000  # characters of `git diff` kept


def take(run: Path, repository: Path = REPOSITORY) -> Path:
    """Returns the folder of a copy of the repository's code as it is now, made if there is none yet.

    Raises:
        ValueError: the run folder cannot be written.
    """
    if (repository / "snapshot.json").is_file():  # this is a snapshot already
        return repository
    files = sources(repository)
    digest = digest_of(repository, files)
    folder = (run / history.FOLDER / f"code-{digest[:12]}").absolute()
    if folder.is_dir():
        return folder
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        for file in files:
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / file, draft / file)
        about = {
            "digest": digest,
            "taken": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "commit": (_git(repository, "rev-parse", "HEAD") or "").strip() or None,
            "diff": (_git(repository, "diff", "HEAD") or "")[:DIFF_LIMIT],
        }
        (draft / "snapshot.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another start made the same one meanwhile
                raise
    except OSError as error:
        raise ValueError(f"--out {run} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def of_job(run: Path, job: str, repository: Path = REPOSITORY) -> Path:
    """Returns the snapshot that this job started with; its first start takes it.

    Raises:
        ValueError: as `take`.
    """
    for line in history.read(run):
        if line["event"] == "code" and line["job"] == job and Path(line["folder"]).is_dir():
            return Path(line["folder"])
    folder = take(run, repository)
    history.append(run, "code", job=job, folder=str(folder))
    return folder


def sources(repository: Path) -> list[Path]:
    """Returns the Python files of the repository, relative to it, sorted; no tests or benchmarks.

    What git knows or would add; without git all that is not hidden.
    """
    listed = _git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py")
    if listed:
        found = [Path(name) for name in listed.split("\0") if name]
    else:
        found = [path.relative_to(repository) for path in repository.rglob("*.py")]
    return sorted(
        path
        for path in found
        if path.parts[0] not in LEFT_OUT
        and not any(part.startswith(".") for part in path.parts)
        and (repository / path).is_file()
    )


def digest_of(repository: Path, files: Sequence[Path]) -> str:
    """Returns the SHA-256 over the names and contents of the files."""
    total = hashlib.sha256()
    for file in files:
        content = (repository / file).read_bytes()
        total.update(f"{file.as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _git(repository: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(("git", *words), cwd=repository, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="slurm/snapshot.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--job", help="the job's number")
    args = parser.parse_args(argv)
    try:
        print(of_job(args.run, args.job) if args.job else take(args.run))
    except ValueError as error:
        print(f"slurm/snapshot.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
