"""wandb can neither stop nor slow a run: the situations of a cluster, with the real wandb in a process of its own.

There is no network but this machine's loopback, no key but a made-up one, and a home folder of its own.
"""

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from diagnostics.heatmap import heatmap_png
from diagnostics.record import read_metrics
from tests.wandb_logs import kept_id, mirrored, steps

KEY = "0123456789abcdef" * 3  # nobody's

RUN = """
import os, signal, sys, time
from pathlib import Path
from diagnostics import wandb_mirror
from diagnostics.record import Record
folder, mode, first, init_timeout, wait_for_input = sys.argv[1:]
wandb_mirror.INIT_TIMEOUT_S, wandb_mirror.FINISH_TIMEOUT_S = float(init_timeout), 2.0
signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
handlers = [signal.getsignal(number) for number in signals]
record = Record(Path(folder), mode, {"lr": 0.5, "api_key": "planted-in-config"}, "a name", "some-project")
for step in range(int(first), int(first) + 20):
    record.metrics(step, {"loss": 1 / (step + 1)})
record.images(int(first), {"heatmap": Path(folder) / "m.png"})
if "TABLES" in os.environ:
    rows = [(3, "a “moon”", 0.5), (4, "", float("nan"))]
    record.table(int(first), "pairs/hardest", ("image", "caption", "similarity"), rows)
    record.table(int(first), "none", ("image", "caption"), [])
print("logged", flush=True)
if wait_for_input == "yes":
    sys.stdin.readline()
record.finish(0)
assert handlers == [signal.getsignal(number) for number in signals]
print("finished", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    heatmap_png(torch.eye(4), tmp_path / "run" / "m.png", ["name"])
    return tmp_path / "run"


def arguments(folder: Path, mode: str, first: int = 0, init_timeout: float = 15, wait: bool = False) -> list[str]:
    return [sys.executable, "-c", RUN, str(folder), mode, str(first), str(init_timeout), "yes" if wait else "no"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = str(folder.parent / "home")
    return {**kept, "HOME": home, "NETRC": home + "/netrc", "PLANTED_TOKEN": "planted-in-environment", **more}


def run(folder: Path, mode: str, *, first: int = 0, init_timeout: float = 15, **more: str) -> str:
    """Runs to the end and returns stderr."""
    done = subprocess.run(
        arguments(folder, mode, first, init_timeout),
        env=environment(folder, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["logged", "finished"]
    assert len(read_metrics(folder)) >= 20, "the record is whole whatever happens to wandb"
    return done.stderr


def test_offline_twice_is_one_run_whose_repeated_steps_are_kept(folder: Path) -> None:
    assert run(folder, "offline") == ""
    kept = kept_id(folder)
    assert run(folder, "offline", first=10) == "", "a resumed run goes back to step 10"
    assert kept_id(folder) == kept
    logs = mirrored(folder)
    assert [log["run"][0]["run_id"] for log in logs] == [kept] * 2
    assert (logs[0]["run"][0]["display_name"], logs[0]["run"][0]["project"]) == ("a name", "some-project")
    assert [steps(log) for log in logs] == [list(range(20)), list(range(10, 30))]
    assert all(log["run"][0]["resume"] for log in logs), "`wandb sync` would not join them"
    assert logs[1]["metric"][-1]["step_metric"] == "step"
    pictures = list(folder.glob("wandb/*run-*/files/media/images/*.png"))
    assert [picture.read_bytes() for picture in pictures] == [(folder / "m.png").read_bytes()] * 2


TABLE = {"columns": ["image", "caption", "similarity"], "data": [[3, "a “moon”", 0.5], [4, "", None]]}


def test_tables_are_kept_offline_even_empty_ones(folder: Path) -> None:
    assert run(folder, "offline", TABLES="yes") == ""
    (files,) = folder.glob("wandb/*run-*/files/media/table")
    (filled,) = files.glob("pairs/hardest_*.table.json")
    assert json.loads(filled.read_text()) == TABLE
    assert [json.loads(path.read_text())["data"] for path in files.glob("none_*.table.json")] == [[]]
    assert [steps(log) for log in mirrored(folder)] == [list(range(20))]


def test_no_secret_is_written(folder: Path) -> None:
    run(folder, "offline", WANDB_API_KEY=KEY)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"some-project" in written
    for secret in (KEY, "planted-in-environment", "planted-in-config"):
        assert secret.encode() not in written


def test_without_a_key_and_a_terminal_the_run_goes_on_offline(folder: Path) -> None:
    stderr = run(folder, "online")
    assert stderr.count("\n") == 1
    assert "no API key" in stderr
    assert [steps(log) for log in mirrored(folder)] == [list(range(20))]


def test_without_a_key_nobody_is_asked_on_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            arguments(folder, "online"),
            env=environment(folder),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=100,
        )
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert text.replace("\r", "").splitlines()[-1] == "finished"
    assert "Enter your choice" not in text
    assert "no API key" in text


def test_an_unreachable_server_costs_the_init_timeout_and_the_run_goes_on_offline(folder: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    stderr = run(folder, "online", init_timeout=2, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    assert stderr.count("\n") == 1
    assert "online failed" in stderr
    online, offline = mirrored(folder)  # the failed start leaves a log without a history
    assert (steps(online), steps(offline)) == ([], list(range(20)))
    assert [path.name.split("-")[-1] for path in folder.glob("wandb/offline-run-*")] == [kept_id(folder)]


class Stub(BaseHTTPRequestHandler):
    """As much of wandb's server as a run needs."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        answer: dict[str, Any] = {}
        seen: dict[str, Any] = self.server.seen
        if self.path == "/graphql":
            asked = json.loads(body)
            variables = asked.get("variables") or {}
            seen["asked"].append(asked["operationName"])
            if asked["operationName"] == "UpsertBucket":
                seen["ids"].append(variables["name"])
                project = {"id": "p", "name": "some-project", "entity": {"id": "e", "name": "someone"}}
                bucket = {"id": "b", "name": variables["name"], "historyLineCount": 0, "project": project}
                answer = {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
            elif asked["operationName"] == "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
                answer = {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
            elif asked["operationName"] == "Viewer":  # before the first table
                answer = {"data": {"viewer": {"id": "v", "entity": "someone", "teams": {"edges": []}}}}
            elif "artifactType" in asked["query"]:
                answer = {"data": {"project": {"artifact": None}}}
            elif asked["operationName"] == "CreateArtifact":  # a table is one; this says that it is there already
                there = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
                answer = {"data": {"createArtifact": {"artifact": there}}}
            else:
                answer = {"data": {}}
        elif self.path.endswith("file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {})
            seen["history"] += [json.loads(line) for line in history.get("content", [])]
            seen["stream"].set()
        self.reply(answer)

    def do_PUT(self) -> None:
        self.server.seen["uploads"][self.path] = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.reply({})

    def do_GET(self) -> None:
        self.reply({})

    def reply(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Any]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # a client that left
            pass

    server: Any = Server(("127.0.0.1", 0), Stub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.seen = {"asked": [], "ids": [], "history": [], "uploads": {}, "stream": threading.Event()}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_online_everything_arrives_and_a_resumed_run_has_the_same_id(folder: Path) -> None:
    with serving() as server:
        assert run(folder, "online", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url) == ""
        assert sorted(line["step"] for line in server.seen["history"] if "loss" in line) == list(range(20))
        assert (folder / "m.png").read_bytes() in server.seen["uploads"].values()
        assert "RunResumeStatus" in server.seen["asked"], "it did not ask whether the run exists"
        server.seen["history"].clear()
        assert run(folder, "online", first=10, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url) == ""
        assert sorted(line["step"] for line in server.seen["history"] if "loss" in line) == list(range(10, 30))
        assert set(server.seen["ids"]) == {kept_id(folder)}


def test_online_a_table_arrives(folder: Path) -> None:
    with serving() as server:
        assert run(folder, "online", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url, TABLES="yes") == ""
        assert "CreateArtifact" in server.seen["asked"]
        tables = [data for path, data in server.seen["uploads"].items() if "/table/pairs/hardest" in path]
        assert [json.loads(table) for table in tables] == [TABLE]
        logged = [line["pairs/hardest"] for line in server.seen["history"] if "pairs/hardest" in line]
        assert [(table["_type"], table["nrows"]) for table in logged] == [("table-file", 2)]


def test_a_server_that_dies_mid_run_is_given_up_at_the_end(folder: Path) -> None:
    with serving() as server:
        child = subprocess.Popen(
            arguments(folder, "online", wait=True),
            env=environment(folder, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.seen["stream"].wait(60), "the run never came online"
    stdout, stderr = child.communicate("\n", timeout=60)  # the server is gone; wandb alone would wait for ever
    assert child.returncode == 0
    assert stdout.split() == ["logged", "finished"]
    assert stderr.count("\n") == 1
    assert "upload not finished" in stderr
    assert [steps(log) for log in mirrored(folder)] == [list(range(20))], "all is there to be synced"
