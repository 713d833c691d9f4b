"""What slurm.submit asks Slurm for, and what it refuses before anything is queued. No cluster is needed here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slurm import submit
from slurm.config import Request, from_flags, minutes, user_defaults
from slurm.submit import parse
from slurm.sweep import expand

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(autouse=True)
def _no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slurm.toml").write_text("")
    monkeypatch.setenv("SSL_SLURM", str(tmp_path / "slurm.toml"))
    monkeypatch.setenv("HOME", str(tmp_path))


def dry_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: str) -> tuple[int, str, str]:
    """Returns (exit code, stdout with this machine's paths replaced, stderr); pretrain.py's own check is left out."""
    code = submit.main(["barlow_twins_rn50", "--out", str(tmp_path / "out"), "--dry-run", *flags])
    told = capsys.readouterr()
    text = (
        told.out.replace(str(tmp_path), "/scratch").replace(sys.executable, "PYTHON").replace(str(Path.cwd()), "/home")
    )
    return code, text, told.err


FULL = "--nodes 4 --gpus-per-node 8 --data /data/imagenet --partition gpu --account vision --qos high --constraint h100"
FULL += " --reservation r1 --exclude n7 --mail me@example.org --comment tenure --time 2-00:00:00 --mem 900G"
SETUP = ["--setup", "module load cuda", "--setup", "export A=1"]
CASES = {
    "one_job": [*FULL.split(), "--cpus-per-gpu", "12", "--epochs", "100", *SETUP],
    "sweep": ["--seeds", "2", "--sweep", "lambd=0.003,0.005", "--parallel", "2"],
    "container": ["--container", "/images/ssl.sif", "--data", "/data/imagenet"],
    "cpus": ["--gpus-per-node", "0", "--tasks-per-node", "4", "--lead", "60"],
}


@pytest.mark.parametrize("case", CASES)
def test_the_text_that_is_queued(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to a file that was read line by line; --dry-run writes nothing."""
    monkeypatch.setattr(submit, "check", lambda members, request: None)
    code, text, told = dry_run(capsys, tmp_path, *CASES[case])
    assert code == 0, told
    assert text == (GOLDEN / f"{case}.txt").read_text()
    assert not (tmp_path / "out").exists()


def test_the_commands_are_checked_by_pretrain_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, told = dry_run(capsys, tmp_path, "--data", str(tmp_path / "nowhere"))
    assert code == 2
    assert "no such folder" in told
    assert "nothing was queued" in told


@pytest.mark.parametrize(("flags", "words"), [("--protocoll bt-100ep", "--protocol"), ("--seeds 0", "--seeds 0")])
def test_the_evaluation_is_checked_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, words: str
) -> None:
    monkeypatch.setattr(submit, "check", lambda members, request: None)
    code, _, told = dry_run(capsys, tmp_path, "--then-eval", "--eval-flags", flags)
    assert code == 2
    assert words in told
    assert "nothing was queued" in told
    assert "Traceback" not in told
    assert dry_run(capsys, tmp_path, "--then-eval", "--eval-flags", "--protocol bt-100ep")[0] == 0


# name: flags -> words of the message
BAD: dict[str, tuple[str, str]] = {
    "nodes": ("--nodes 0", "--nodes 0 should be at least 1"),
    "lead": ("--time 2 --lead 120", "--lead 120 s should be shorter than --time 2"),
    "timeout": ("--timeout-min 2 --lead 120", "--timeout-min 2 should be below the 120 s of --lead"),
    "time": ("--time soon", "--time 'soon'"),
    "tasks": ("--gpus-per-node 8 --tasks-per-node 4", "every rank has one GPU"),
    "sweep": ("--sweep lambd", "not of the form KNOB=A,B"),
    "sweep_empty": ("--sweep lambd=0.1,,0.2", "not of the form KNOB=A,B"),
    "sweep_twice": ("--sweep lambd=0.1 --lambd 0.2", "--lambd is given twice"),
    "sweep_same": ("--sweep lambd=0.1,0.1", "same value twice"),
    "seeds": ("--seeds 0", "--seeds 0 should be at least 1"),
    "eval_gpus": ("--then-eval --eval-gpus 0", "--eval-gpus 0 should be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags, words = BAD[case]
    code, _, told = dry_run(capsys, tmp_path, *flags.split())
    assert code == 2
    assert words in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_percent_sign_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert submit.main(["demo", "--out", str(tmp_path / "100%j"), "--dry-run"]) == 2
    assert "Slurm would replace the %" in capsys.readouterr().err


def test_each_member_of_a_sweep_has_a_folder_of_its_own() -> None:
    members = expand("demo", Path("O"), ["lambd=0.003,0.005"], 2, ["--epochs", "3"], ["--epochs", "3"])
    assert [str(member.run) for member in members] == [
        "O/lambd=0.003,seed=0",
        "O/lambd=0.003,seed=1",
        "O/lambd=0.005,seed=0",
        "O/lambd=0.005,seed=1",
    ]
    assert members[1].arguments[:3] == ("demo", "--out", "O/lambd=0.003,seed=1")
    assert members[1].arguments[-6:] == ("--epochs", "3", "--lambd", "0.003", "--seed", "1")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90", 90), ("90:30", 91), ("24:00:00", 1440), ("2-12", 3600), ("2-12:30", 3630), ("1-00:00:01", 1441)],
)
def test_time_limits(text: str, wanted: int) -> None:
    assert minutes(text) == wanted


@pytest.mark.parametrize("text", ["", "a day", "1:2:3:4", "-5", "0", "0:30"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ValueError, match="--time"):
        minutes(text)


def test_the_users_file_stands_between_flags_and_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('partition = "gpu"\ngpus_per_node = 8\nsetup = ["module load cuda"]\ntime = "1-00:00:00"\n')
    user = user_defaults({"SSL_SLURM": str(file)})
    args, rest = parse(["demo", "--out", "O", "--time", "60", "--lambd", "1"], user)
    request = from_flags(args, user)
    assert (request.partition, request.gpus_per_node, request.setup) == ("gpu", 8, ("module load cuda",))
    assert (request.time, request.nodes) == ("60", Request.nodes)
    assert rest == ["--lambd", "1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('partiton = "gpu"', "partiton is no flag.*did you mean partition"),
        ('nodes = "two"', "nodes = 'two' should be a whole number"),
        ("setup = 'module load cuda'", "should be a list of texts"),
        ("nodes =", "mine.toml"),
    ],
)
def test_a_wrong_users_file_is_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=words):
        user_defaults({"SSL_SLURM": str(tmp_path / "mine.toml")})


def test_a_users_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        user_defaults({"SSL_SLURM": str(tmp_path / "gone.toml")})


def test_without_slurm_nothing_is_left_behind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit.main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "no Slurm here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "bound"),
    [
        ("/data/imagenet", ["/data/imagenet"]),
        ("/data/cc3m/{0000..0331}.tar", ["/data/cc3m"]),
        ("/data/cc3m/train-{0000..0331}.tar::/other/one.tar", ["/data/cc3m", "/other/one.tar"]),
    ],
)
def test_a_container_sees_every_source_of_the_data(data: str, bound: list[str]) -> None:
    assert [str(place) for place in submit.sources(Path(data))] == bound
