import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import eval_linear
from augmentations import Center
from data import Shapes
from evaluation.command import parse
from parallel import World
from tests.evaluation.conftest import SPEC
from training import checkpoint, stop
from training.recipe import describe

ROOT = Path(__file__).parents[2]
ALONE = World(0, 1, torch.device("cpu"))
FAST = ["--workers", "0", "--device", "cpu", "--epochs", "2", "--knn-k", "3"]


def refused(capsys, *argv: str) -> str:
    """Returns the one line on stderr with which the command line is refused."""
    assert eval_linear.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "", "something ran before the refusal"
    assert len(err.splitlines()) == 1
    assert err.startswith("eval_linear.py: ")
    return err


def test_a_run_is_evaluated_on_its_own_images(run, images, capsys):
    weights = (run / "encoder" / "model.safetensors").read_bytes()
    assert eval_linear.main(["--run", str(run), *FAST, "--random-baseline", "--seeds", "2"]) == 0
    out, _ = capsys.readouterr()
    result = json.loads((run / "eval" / "cached-2ep.json").read_text())
    assert [row["encoder"] for row in result["rows"]] == ["pretrained", "random init", "raw pixels"]
    metrics = result["rows"][0]["metrics"]
    linear = [f"linear-cached-2ep/{name}" for name in ("top1", "top5", "top1-best-head-on-test")]
    assert list(metrics) == [*linear, "knn-k3-T0.07/top1"]
    assert [metric["n"] for metric in metrics.values()] == [2, 2, 1, 1]
    assert [metric["num_images"] for metric in metrics.values()] == [21, 21, None, 21]
    top1 = metrics["linear-cached-2ep/top1"]
    low, high = top1["interval"]
    assert low <= top1["mean"] <= high
    assert top1["mean"] == pytest.approx(np.mean(top1["values"]))
    assert top1["std"] == pytest.approx(np.std(top1["values"], ddof=1))
    assert result["rows"][2]["metrics"]["knn-k3-T0.07/top1"]["mean"] == 100  # the colours are far apart
    assert result["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert (run / "encoder" / "model.safetensors").read_bytes() == weights
    assert (result["num_train"], result["num_test"], result["data_root"]) == (42, 21, str(images))
    assert result["protocol"]["id"] == "cached-2ep"
    assert result["view"] == describe(Center(resize=18, size=16, mean=(0.4, 0.4, 0.4)))
    assert result["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert f"{top1['mean']:.2f} ± {top1['std']:.2f}" in out
    assert "all 90 tensors" in out
    files = {str(path.relative_to(run / "eval")) for path in (run / "eval").rglob("*")}  # no temporary file is left
    assert files == {"cached-2ep.json", "cached-2ep", "cached-2ep/confusion.png", "cached-2ep/neighbours.png"}


def test_a_stopped_evaluation_goes_on_by_the_same_command(run, capsys, monkeypatch):
    """A signal in the middle of the second encoder's first epoch: 75, then the same numbers as without it."""
    argv = ["--run", str(run), *FAST, "--protocol", "bt-100ep", "--random-baseline"]
    assert eval_linear.main([*argv, "--out", str(run / "whole.json")]) == 0
    asked = iter(range(1000))
    monkeypatch.setattr(stop, "pending", lambda: "SIGTERM" if next(asked) == 4 else None)
    capsys.readouterr()
    assert eval_linear.main(argv) == stop.STOPPED_EXIT
    assert "stopped by SIGTERM at step" in capsys.readouterr().err
    assert [path.suffix for path in (run / "eval").iterdir()] == [".unfinished"]
    monkeypatch.undo()
    assert eval_linear.main(argv) == 0
    whole, resumed = (
        json.loads(file.read_text())["rows"] for file in (run / "whole.json", run / "eval" / "bt-2ep.json")
    )
    assert resumed == whole
    assert sorted(path.name for path in (run / "eval").iterdir()) == ["bt-2ep", "bt-2ep.json"]


@pytest.mark.parametrize("when", [0, 1], ids=["features", "heads"])
def test_a_signal_while_features_are_computed_or_heads_trained_ends_it_too(run, capsys, monkeypatch, when):
    asked = iter(range(1000))
    monkeypatch.setattr(stop, "pending", lambda: "SIGTERM" if next(asked) == when else None)
    assert eval_linear.main(["--run", str(run), *FAST]) == stop.STOPPED_EXIT
    assert next(asked) == when + 1
    assert "stopped by SIGTERM: run the same command again" in capsys.readouterr().err


def test_the_same_command_gives_the_same_numbers(run, capsys):
    rows = []
    for out, workers in (("a.json", "0"), ("b.json", "1")):
        argv = ["--run", str(run), *FAST, "--workers", workers, "--out", str(run / out)]
        assert eval_linear.main(argv) == 0
        rows.append(json.loads((run / out).read_text())["rows"])
    assert rows[0] == rows[1]


def test_a_run_that_still_trains_gives_its_newest_checkpoint(run, capsys):
    """The exported encoder and the checkpoint hold the same weights: so must the numbers be the same."""
    assert eval_linear.main(["--run", str(run), *FAST]) == 0
    exported = json.loads((run / "eval" / "cached-2ep.json").read_text())
    encoder = run / "encoder" / "model.safetensors"
    from safetensors.torch import load_file

    state = {f"encoder.{key}": value for key, value in load_file(encoder).items()}
    older = {key: torch.zeros_like(value) for key, value in state.items()}
    encoder.unlink()
    assert "neither" in refused_quietly(capsys, "--run", str(run))
    for step, objective in ((3, older), (5, {**state, "head.0.weight": torch.zeros(3)})):
        checkpoint.save(run / "checkpoints", step, {"step": step, "objective": objective, "optimizer": {}}, keep=2)
    assert eval_linear.main(["--run", str(run), *FAST]) == 0
    result = json.loads((run / "eval" / "cached-2ep.json").read_text())
    assert result["rows"] == exported["rows"]
    assert "step_00000005" in result["weights"]["file"]
    assert result["weights"]["left_out"] == {"objective.head.": 1}


def refused_quietly(capsys, *argv: str) -> str:
    capsys.readouterr()
    return refused(capsys, *argv)


def test_weights_of_another_project(tmp_path, images, capsys):
    """The official layout, at the paper's protocol shortened to an epoch."""
    torch.manual_seed(0)
    model = {f"module.backbone.{key}": value for key, value in SPEC.build()[0].state_dict().items()}
    file = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "model": {**model, "module.projector.0.weight": torch.zeros(2)}, "optimizer": {}}, file)
    argv = ["--weights", str(file), "--backbone", "resnet10t", "--backbone-kwargs", '{"channels": [8, 8, 8, 8]}']
    argv += ["--data", str(images), "--size", "16", "--protocol", "bt-100ep", *FAST]
    assert eval_linear.main(argv) == 0
    result = json.loads((tmp_path / "checkpoint.pth.bt-2ep.json").read_text())
    assert list(result["rows"][0]["metrics"]) == [
        "linear-bt-2ep/top1",
        "linear-bt-2ep/top5",
        "linear-bt-2ep/top1-best-epoch-on-test",
        "linear-bt-2ep/top5-best-epoch-on-test",
        "knn-k3-T0.07/top1",
    ]
    assert (result["view"]["resize"], result["view"]["size"]) == (16, 16)
    assert result["weights"]["left_out"] == {"model.module.projector.": 1}
    assert result["weights"]["prefix"] == "model.module.backbone."


def test_bad_input_is_refused_in_a_line(run, images, tmp_path, capsys, monkeypatch):
    weights = ["--weights", str(run / "encoder" / "model.safetensors")]
    data = ["--data", str(images)]
    assert "give one of --run" in refused(capsys, *data)
    assert "give one of --run" in refused(capsys, "--run", str(run), *weights)
    assert "no such folder" in refused(capsys, "--run", str(tmp_path / "absent"))
    assert "no recipe.json" in refused(capsys, "--run", str(images))
    assert "goes with --weights" in refused(capsys, "--run", str(run), "--backbone", "resnet18")
    assert "did you mean bt-100ep" in refused(capsys, "--run", str(run), "--protocol", "bt100")
    assert "--seeds 0" in refused(capsys, "--run", str(run), "--seeds", "0")
    assert "--workers -1" in refused(capsys, "--run", str(run), "--workers", "-1")
    assert "k 43" in refused(capsys, "--run", str(run), "--knn-k", "43")
    assert "should end in .json" in refused(capsys, "--run", str(run), "--out", str(run / "encoder" / "config.txt"))
    assert "no such folder" in refused(capsys, "--run", str(run), "--data", str(tmp_path / "absent"))
    assert "name its own by --backbone" in refused(capsys, *weights, *data)
    interpolation = ["--protocol", "bt-100ep", "--interpolation", "bicubic"]
    assert "bt-100ep resizes bilinear" in refused(capsys, "--run", str(run), *interpolation)
    assert "go with --backbone" in refused(capsys, *weights, *data, "--stem", "cifar")
    assert "needs --data" in refused(capsys, *weights, "--backbone", "resnet10t")
    assert "did you mean resnet50" in refused(capsys, *weights, "--backbone", "resnet500", *data)
    assert "does not hold this encoder's" in refused(capsys, *weights, "--backbone", "resnet10t", *data)
    assert "no such file" in refused(capsys, "--weights", str(tmp_path / "absent"), "--backbone", "resnet10t", *data)
    assert "no JSON object" in refused(capsys, *weights, "--backbone", "resnet10t", "--backbone-kwargs", "3", *data)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in refused(capsys, "--run", str(run), "--device", "cuda")
    assert not list((run / "eval").glob("*.json")), "a refused command wrote a result"


def test_splits_that_do_not_fit_are_refused_in_a_line(run, images, tmp_path, capsys):
    copy = tmp_path / "copy"
    (copy / "train").parent.mkdir()
    (copy / "train").symlink_to(images / "train")
    argv = ["--run", str(run), "--data", str(copy)]
    assert "no folder" in refused(capsys, *argv)
    (copy / "val").mkdir()
    assert "is empty" in refused(capsys, *argv)
    (copy / "val" / "0.png").write_bytes((images / "val" / "c0" / "0.png").read_bytes())
    assert "flat" in refused(capsys, *argv)
    for name in ("c0", "dog"):
        (copy / "val" / name).symlink_to(images / "val" / "c0")
    err = refused(capsys, *argv)
    assert "6 only in train (c1, c2, c3, c4, c5, ...); 1 only in test (dog)" in err


def test_an_unreadable_image_is_named(run, images, tmp_path, capsys):
    copy = tmp_path / "copy"
    for file in images.rglob("*.png"):
        there = copy / file.relative_to(images)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(file.read_bytes())
    (copy / "val" / "c3" / "1.png").write_bytes(b"")
    assert eval_linear.main(["--run", str(run), "--data", str(copy), *FAST]) == 2
    assert "val/c3/1.png: not an image (0 bytes)" in capsys.readouterr().err
    assert not list((run / "eval").glob("*.json"))


def test_a_generated_set_needs_no_data_and_data_means_other_images(run, images, tmp_path, capsys):
    record = json.loads((run / "recipe.json").read_text())
    record["described"]["data"] = describe(Shapes(num_train=40, num_test=20))
    (run / "recipe.json").write_text(json.dumps(record))
    (run / "environment.json").unlink()
    results = []
    for argv in ([], ["--data", str(images), "--out", str(run / "other.json")]):
        assert eval_linear.main(["--run", str(run), *FAST, *argv]) == 0
        results.append(json.loads(Path(argv[-1] if argv else run / "eval" / "cached-2ep.json").read_text()))
    assert [result["data"]["kind"] for result in results] == ["Shapes", "ImageFolder"]
    assert [(result["num_train"], result["data_root"]) for result in results] == [(40, None), (42, str(images))]


def test_ranks_of_slurm_meet_in_a_folder_that_all_see(run, tmp_path, monkeypatch):
    met = []
    monkeypatch.setattr("parallel.start_world", lambda device, folder: (met.append(folder), ALONE)[1])
    weights = ["--weights", str(tmp_path / "weights" / "file.pth"), "--data", "DATA"]
    out = ["--out", str(tmp_path / "results" / "out.json")]
    for argv in (["--run", str(run)], ["--run", str(run), *out], weights, [*weights, *out]):
        eval_linear.start(parse(argv, ""))
    assert met == [run, run, tmp_path / "weights", tmp_path / "results"]


def test_neighbours_alone(run, images, tmp_path, capsys):
    """The same number as beside a probe; features that are kept serve both protocols of a network without blocks."""
    kept = ["--features", str(tmp_path / "kept"), "--workers", "0", "--device", "cpu"]
    assert eval_linear.main(["--run", str(run), *kept, "--knn-k", "20", "--epochs", "2"]) == 0
    features = sorted((tmp_path / "kept").glob("*/features-*"))
    assert len(features) == 2
    times = [path.stat().st_mtime_ns for path in features]
    assert eval_linear.main(["--run", str(run), *kept, "--protocol", "knn-k20-T0.07"]) == 0
    beside, alone = (
        json.loads((run / "eval" / f"{name}.json").read_text())["rows"][0] for name in ("cached-2ep", "knn-k20-T0.07")
    )
    assert alone["metrics"] == {"knn-k20-T0.07/top1": beside["metrics"]["knn-k20-T0.07/top1"]}
    assert alone["diagnostics"] == beside["diagnostics"]
    assert sorted((tmp_path / "kept").glob("*/features-*")) == features
    assert [path.stat().st_mtime_ns for path in features] == times
    capsys.readouterr()
    argv = ["--run", str(run), "--protocol", "knn-k200-T0.1"]
    assert "k 200 needs at least as many training images" in refused(capsys, *argv)
    assert "--epochs 3: protocol knn-k200-T0.1 trains nothing" in refused(capsys, *argv, "--epochs", "3")
    assert "--knn-k is of no use" in refused(capsys, *argv, "--knn-k", "5")
    assert "--seeds is of no use" in refused(capsys, *argv, "--seeds", "2")
    (tmp_path / "file").write_text("")
    assert "it cannot be made" in refused(capsys, *argv[:2], "--features", str(tmp_path / "file"))


def test_a_result_on_other_images_is_not_overwritten(run, images, tmp_path, capsys):
    (tmp_path / "other").symlink_to(images)
    assert eval_linear.main(["--run", str(run), *FAST]) == 0
    before = (run / "eval" / "cached-2ep.json").read_bytes()
    capsys.readouterr()
    err = refused(capsys, "--run", str(run), *FAST, "--data", str(tmp_path / "other"))
    assert "holds another result (data_root: " in err
    missing = ["--data", str(tmp_path / "absent")]
    assert "absent: no such folder" in refused(capsys, "--run", str(run), *FAST, *missing), "the result was blamed"
    assert "view.resize: 18 there, 20 here" in refused(capsys, "--run", str(run), *FAST, "--resize", "20")
    assert (run / "eval" / "cached-2ep.json").read_bytes() == before
    assert eval_linear.main(["--run", str(run), *FAST]) == 0  # the same images: replaced
    (run / "mine.json").write_text("[1]")
    capsys.readouterr()
    assert "no result" in refused(capsys, "--run", str(run), *FAST, "--out", str(run / "mine.json"))
    assert (run / "mine.json").read_text() == "[1]"


def test_a_result_that_cannot_be_written_is_still_printed(run, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.atomic.write_atomic", full)
    assert eval_linear.main(["--run", str(run), *FAST]) == 74
    out, err = capsys.readouterr()
    assert "linear-cached-2ep/top1" in out
    assert "No space left on device" in err


def test_help_is_instant():
    """It names every flag, and neither torch nor timm is imported for it."""
    code = "import sys, eval_linear\ntry: eval_linear.main(['--help'])\n"
    code += "finally: print(sorted({'torch', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("[]")
    for flag in (
        "--run",
        "--weights",
        "--protocol",
        "--knn-temperature",
        "--random-baseline",
        "--out",
        "--zero-shot",
        "--retrieval",
    ):
        assert flag in done.stdout
    assert "None" not in done.stdout


def test_a_mistyped_flag_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        eval_linear.main(["--protocl", "cached"])
    assert stopped.value.code == 2
    assert "--protocol" in capsys.readouterr().err
