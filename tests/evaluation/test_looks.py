"""What eval_linear.py shows beside accuracies: the statistics it prints and keeps, its pictures, and wandb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eval_linear
from augmentations import BARLOW_TWINS, CIFAR_SIMCLR, Center, View
from diagnostics.embedding_stats import rankme
from diagnostics.feature_stats import lidar, view_alignment
from evaluation import mirror
from evaluation.features import Extractor, Pixels
from evaluation.looks import Looks, random_view, readable
from evaluation.protocols import Cached
from evaluation.table import evaluate
from parallel import World
from training.recipe import describe

VIEW = Center(resize=None, size=12)
FAST = ["--workers", "0", "--device", "cpu", "--epochs", "1", "--seeds", "1", "--knn-k", "3"]


@pytest.fixture
def looks(colours, encoder) -> Looks:
    encoders = {"pretrained": encoder, "raw pixels": Pixels(4)}
    extractor = Extractor(encoders, VIEW, World(0, 1, torch.device("cpu")))
    return Looks(extractor, colours(60, 30), colours(30, 30, seed=1))


def test_the_first_encoder_is_drawn_and_statistics_are_of_each_ones_own_training_features(looks, tmp_path) -> None:
    protocol = Cached(epochs=1)
    rows = evaluate(looks.extractor, looks.train_set, looks.test_set, protocol, [0], 3, look=looks.seen)
    features, _ = looks.extractor(looks.train_set)
    for name in ("pretrained", "raw pixels"):
        assert looks.statistics[name]["rankme-n60"] == pytest.approx(rankme(features[name]))
    assert "uniformity-n60" in looks.statistics["pretrained"]
    files = looks.draw(tmp_path / "here", protocol.id)
    assert set(files) == {"confusion", "neighbours"}
    for name, path in files.items():
        assert path == tmp_path / "here" / f"{name}.png"
        with Image.open(path) as image:
            title = image.info["Title"]
        assert "pretrained" in title
        assert f"top-1 {rows[0].metrics[f'linear-{protocol.id}/top1'].values[0]:.2f} % of 30 test images" in title


def test_views_of_an_image_differ_and_are_the_same_each_time(looks) -> None:
    view = random_view([], VIEW)
    looks.see_views(10, 4, view)
    found = {name: dict(values) for name, values in looks.statistics.items()}
    assert list(found["pretrained"]) == ["lidar-n10-q4", "alignment-n10-q4"]
    assert found["raw pixels"]["alignment-n10-q4"] > 1e-3
    looks.see_views(10, 4, view)
    assert looks.statistics == found


def test_lidar_is_of_several_views_of_one_image_not_of_several_images(looks, monkeypatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("evaluation.looks.view_statistics", lambda z: seen.append(z) or {})
    still = View(size=12, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0, jitter=0, gray=0)
    looks.see_views(10, 3, still)
    assert [z.shape[:2] for z in seen] == [(10, 3), (10, 3)]
    assert view_alignment(seen[1].float()) < 1e-6, "without randomness the views of an image are one"
    assert len(seen[1][:, 0].unique(dim=0)) == 10
    assert lidar(seen[1].float()) > 1.5


def test_a_run_is_seen_through_its_own_view_and_other_weights_through_barlow_twins() -> None:
    view = Center(resize=None, size=12, mean=(0.4, 0.4, 0.4))
    own = random_view(CIFAR_SIMCLR, view)
    assert (own.brightness, own.size, own.mean) == (0.8, 12, (0.4, 0.4, 0.4))
    other = random_view([], view)
    assert (other.blur, other.size) == (BARLOW_TWINS[0].blur, 12)


def test_synsets_are_called_by_their_words() -> None:
    assert readable(["n01443537", "n02012849", "n03126707"]) == ["goldfish", "crane (n02012849)", "crane (n03126707)"]
    assert readable(["n01443537", "cat"]) == ["n01443537", "cat"]
    assert readable(["n00000000", "n01443537"]) == ["n00000000", "goldfish"]


class Mirror:
    """Stands for wandb's mirror and keeps what it is handed."""

    def __init__(self, folder: Path, mode: str, config: dict[str, Any], name: str, project: str) -> None:
        self.about = folder, mode, config, name, project
        self.handed: list[Any] = []
        made.append(self)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.handed.append(values)

    def images(self, step: int, pictures: dict[str, Path]) -> None:
        self.handed.append(pictures)

    def finish(self, exit_code: int) -> dict[str, int]:
        self.handed.append("finished")
        return {}


made: list[Mirror] = []


def test_numbers_and_pictures_are_kept_beside_the_result_and_mirrored(run, capsys, monkeypatch) -> None:
    made.clear()
    monkeypatch.setattr(mirror, "WandbMirror", Mirror)
    argv = ["--run", str(run), *FAST, "--lidar", "8", "3", "--wandb", "offline", "--wandb-project", "mine"]
    assert eval_linear.main(argv) == 0
    out = capsys.readouterr().out
    result = json.loads((run / "eval" / "cached-1ep.json").read_text())
    found = result["rows"][0]["diagnostics"]
    assert next(name for name in found if name.startswith("alpha-req-ranks4-")).endswith("-n42")
    assert {"rankme-n42", "uniformity-n42", "lidar-n8-q3", "alignment-n8-q3"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    assert result["lidar"]["num_views"] == 3
    assert result["lidar"]["view"]["kind"] == "View"
    assert f"{found['rankme-n42']:.4g}" in out
    folder = run / "eval" / "cached-1ep"
    pictures = {name: folder / f"{name}.png" for name in ("confusion", "neighbours")}
    for path in pictures.values():
        assert path.is_file()
        assert f"picture: {path}" in out
    (handed,) = made
    assert handed.about[0] == folder
    assert handed.about[1] == "offline"
    assert handed.about[2]["classes"] == [f"c{i}" for i in range(7)]
    assert handed.about[3:] == ("run cached-1ep", "mine")
    numbers, shown, end = handed.handed
    top1 = result["rows"][0]["metrics"]["linear-cached-1ep/top1"]["mean"]
    assert numbers["pretrained/linear-cached-1ep/top1"] == top1
    assert numbers["pretrained/lidar-n8-q3"] == found["lidar-n8-q3"]
    assert (shown, end) == (pictures, "finished")


def test_a_picture_that_cannot_be_written_costs_the_picture_not_the_result(run, capsys) -> None:
    (run / "eval").mkdir()
    (run / "eval" / "cached-1ep").write_text("a file where the folder should be")
    assert eval_linear.main(["--run", str(run), *FAST, "--wandb", "offline"]) == 74
    captured = capsys.readouterr()
    assert (run / "eval" / "cached-1ep.json").is_file()
    assert "picture: " not in captured.out
    assert "eval_linear.py: no pictures in " in captured.err
    assert "wandb: " in captured.err


@pytest.mark.parametrize(
    ("flags", "said"), [(["43", "2"], "2 to 42"), (["8", "1"], "2 views"), (["1", "2"], "2 to 42")]
)
def test_numbers_that_lidar_cannot_have_are_refused_before_anything_runs(run, capsys, flags, said) -> None:
    assert eval_linear.main(["--run", str(run), *FAST, "--lidar", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert f"--lidar {' '.join(flags)}" in captured.err


def test_the_runs_own_views_are_read_back(run) -> None:
    from evaluation.run_folder import read_run

    assert read_run(run).views == ()
    record = run / "recipe.json"
    content = json.loads(record.read_text())
    content["described"]["views"] = [describe(view) for view in BARLOW_TWINS]
    record.write_text(json.dumps(content))
    assert read_run(run).views == BARLOW_TWINS
