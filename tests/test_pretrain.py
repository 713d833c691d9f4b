"""pretrain.py as a user runs it: resume to the bit, bad input, errors that lose nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs import QUIET, ROOT, STEPS, TINY, environment, events, finish, losses, run, start, wait_for_step, weights


def test_a_finished_run_is_left_alone(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    code, text = run(undisturbed, *TINY, *QUIET, "--workers", "1")
    assert code == 0
    assert "finished" in text
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}


def test_the_run_folder_can_be_read_without_any_tool(undisturbed: Path) -> None:
    recipe = json.loads((undisturbed / "recipe.json").read_text())
    assert recipe["recipe"] == "demo"
    assert recipe["knobs"]["batch_size"] == 16
    assert recipe["described"]["objective"]["loss"]["kind"] == "BarlowTwins"
    attempt = json.loads((undisturbed / "environment.json").read_text())["attempts"][0]
    assert attempt["versions"]["torch"]
    assert attempt["git"]["commit"] is None or len(attempt["git"]["commit"]) == 40
    assert sorted(losses(undisturbed)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("kill_at", [3, 8])
def test_kill_9_and_start_again_gives_the_same_weights(undisturbed: Path, tmp_path: Path, kill_at: int) -> None:
    """With another number of workers, too."""
    out = tmp_path / "killed"
    process = start(out, *TINY, *QUIET, "--workers", "2")
    wait_for_step(out, kill_at, process)
    process.kill()
    process.communicate()
    assert not (out / "done.json").exists()
    code, text = run(out, *TINY, *QUIET, "--workers", "0")
    assert code == 0, text
    found = re.search(r"resumed at step (\d+)", text)
    assert found, text
    assert kill_at - 3 < int(found[1]) <= STEPS
    assert losses(out) == losses(undisturbed)
    assert weights(out) == weights(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_saves_and_leaves_with_its_own_code(undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "stopped"
    process = start(out, *TINY, *QUIET, "--workers", "1", "--save-every", "1000")
    wait_for_step(out, 3, process)
    process.send_signal(number)
    code, text = finish(process)
    assert code == 75, text
    assert f"stopped by {number.name}" in text
    assert "Traceback" not in text
    assert len(list((out / "checkpoints").glob("*.pt"))) == 1
    code, text = run(out, *TINY, *QUIET, "--workers", "1", "--save-every", "1000")
    assert code == 0, text
    assert "resumed at step" in text
    assert losses(out) == losses(undisturbed)
    assert weights(out) == weights(undisturbed)


def test_a_damaged_newest_checkpoint_is_skipped(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "damaged"
    process = start(out, *TINY, *QUIET, "--workers", "1")
    wait_for_step(out, 7, process)
    process.kill()
    process.communicate()
    newest = max((out / "checkpoints").glob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    code, text = run(out, *TINY, *QUIET, "--workers", "1")
    assert code == 0, text
    assert "skipped a damaged checkpoint" in text
    assert weights(out) == weights(undisturbed)


# Bad input: one clear line that names the value and the remedy, exit code 2, nothing overwritten.
BAD: dict[str, tuple[list[str], list[str]]] = {
    "recipe": (["barlow_twin_rn50"], ["barlow_twin_rn50", "did you mean barlow_twins_rn50"]),
    "knob": (["demo", "--out", "OUT", "--epoch", "3"], ["--epoch", "--epochs"]),
    "type": (["demo", "--out", "OUT", "--epochs", "many"], ["many", "--epochs"]),
    "value": (["demo", "--out", "OUT", "--epochs", "0"], ["epochs 0", "at least 1"]),
    "save_every": (["demo", "--out", "OUT", "--save-every", "0"], ["--save-every 0", "at least 1"]),
    "no_out": (["demo"], ["--out"]),
    "batch": (["demo", "--out", "OUT", "--images", "8", "--batch-size", "16"], ["--batch-size 16", "8 images"]),
    "no_data": (["barlow_twins_rn50", "--out", "OUT"], ["--data is missing"]),
    "missing_data": (["barlow_twins_rn50", "--out", "OUT", "--data", "DATA/nowhere"], ["nowhere", "no such folder"]),
    "no_train": (["barlow_twins_rn50", "--out", "OUT", "--data", "DATA/bare"], ["no folder", "train"]),
    "empty": (["barlow_twins_rn50", "--out", "OUT", "--data", "DATA/empty"], ["is empty"]),
    "empty_class": (["barlow_twins_rn50", "--out", "OUT", "--data", "DATA/hole"], ["cat", "has no images"]),
    "flat": (["barlow_twins_rn18_cifar10", "--out", "OUT", "--data", "DATA/flat"], ["is flat", "class"]),
    "cuda": (["demo", "--out", "OUT", "--device", "cuda"], ["--device cpu"]),
    "fp16": (["demo", "--out", "OUT", "--precision", "fp16"], ["fp16", "bf16"]),
    "other_run": (["demo", "--out", "DATA/run", *TINY, "--lambd", "0.1"], ["another run", "lambd", "0.1"]),
    "backbone": (
        ["barlow_twins_rn50", "--backbone", "resnet5", "--out", "OUT", "--data", "DATA/good", "--batch-size", "4"],
        ["resnet5", "did you mean resnet50"],
    ),
    "unwritable": (["demo", "--out", "DATA/files/thesis.png/out"], ["thesis.png", "cannot be written"]),
    "other_files": (["demo", "--out", "DATA/files"], ["holds other files"]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """Folders in which something is wrong, by name."""
    data = tmp_path_factory.mktemp("bad")
    picture = Image.new("RGB", (40, 40), (200, 30, 30))
    for name in (
        "bare",
        "empty/train",
        "hole/train/cat",
        "hole/train/dog",
        "flat/train/cat",
        "flat/test",
        "good/train/cat",
        "files",
    ):
        (data / name).mkdir(parents=True)
    names = [f"good/train/cat/{number}.png" for number in range(8)]
    for name in (*names, "hole/train/dog/1.png", "flat/train/cat/1.png", "flat/test/1.png", "files/thesis.png"):
        picture.save(data / name)
    (data / "run").symlink_to(undisturbed)
    return data


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_happens(
    case: str,
    main: Callable[[list[str]], int],
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, wanted = BAD[case]
    before = sorted(folders.rglob("*"))
    code = main([a.replace("OUT", str(tmp_path / "out")).replace("DATA", str(folders)) for a in arguments])
    told = capsys.readouterr().err
    assert code == 2, told
    for words in wanted:
        assert words in " ".join(told.split())
    assert not (tmp_path / "out").exists()
    assert sorted(folders.rglob("*")) == before


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    code, text = run(tmp_path / "out", recipe="barlow_twin_rn50")
    assert code == 2
    assert len(text.splitlines()) == 1
    assert "did you mean barlow_twins_rn50" in text


def test_the_recipes_are_listed_at_once_and_help_names_every_knob() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "pretrain.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "barlow_twins_rn50" in listed.stdout
    assert "73.5 %" in listed.stdout
    assert " torch\n" not in listed.stderr  # the list does not wait for torch
    told = subprocess.run(
        [sys.executable, "pretrain.py", "barlow_twins_rn50", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for words in ("--lambd", "0.0051", "--save-every", "main.py"):
        assert words in told.stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small ImageFolder tree with one truncated file."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 255, (50, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    bad = tmp_path / "photos" / "train" / "cat" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    return tmp_path / "photos"


PHOTO_FLAGS = ["--size", "32", "--batch-size", "8", "--epochs", "1", "--width", "16", "--workers", "1"]


def test_an_unreadable_image_stops_the_run_and_names_the_file(photos: Path, tmp_path: Path) -> None:
    code, text = run(tmp_path / "out", *PHOTO_FLAGS, "--data", str(photos), recipe="barlow_twins_rn50")
    assert code == 2
    assert str(Path("cat") / "3.jpg") in text
    assert "--skip-bad-images" in text
    assert "Traceback" not in text


def test_unreadable_images_can_be_skipped_and_are_listed(photos: Path, tmp_path: Path) -> None:
    flags = [*PHOTO_FLAGS, "--data", str(photos), "--skip-bad-images"]
    code, text = run(tmp_path / "out", *flags, recipe="barlow_twins_rn50")
    assert code == 0, text
    bad = events(tmp_path / "out", "bad_image")
    assert len(bad) == 1
    assert "3.jpg" in bad[0]["message"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    flags = [*TINY, *QUIET, "--workers", "0", "--lr", "1e30"]
    code, text = run(tmp_path / "out", *flags)
    assert code == 70, text
    assert "not finite" in text
    assert "step" in text
    from training import checkpoint

    for path in (tmp_path / "out" / "checkpoints").glob("*.pt"):
        assert checkpoint.all_finite(checkpoint.load(path)) is None


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the save fails, is said aloud, and training goes on."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    command = [sys.executable, "pretrain.py", "demo", "--out", str(tmp_path / "out"), *TINY, *QUIET, "--workers", "0"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=limit,
    )
    assert "could not be saved" in done.stderr
    assert sorted(losses(tmp_path / "out")) == list(range(1, STEPS + 1))
    assert done.returncode != 0  # the encoder could not be exported either: not finished
    assert not (tmp_path / "out" / "done.json").exists()
