import json
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from augmentations import Center
from data import Shapes
from evaluation import compare
from evaluation.at_end import finish
from models import Backbone
from training.recipe import describe


def test_what_a_run_leaves_can_be_compared(tmp_path, capsys, monkeypatch):
    """The table at a run's end, and the protocol and images that make two runs' numbers comparable."""
    monkeypatch.setattr("evaluation.protocols.Cached.num_steps", lambda self, num: 20)
    spec = Backbone("resnet10t", {"channels": (8, 8, 8, 8)})
    objective = nn.Module()
    objective.encoder = spec.build()[0]
    recipe = SimpleNamespace(
        eval_view=Center(resize=16, size=16),
        objective=partial(nn.Module, encoder=spec),
        data=Shapes(num_train=60, num_test=20),
        seed=5,
    )
    finish(objective, recipe, tmp_path, None, True, torch.device("cpu"), 0)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["encoder"] for row in written["rows"]] == ["pretrained", "random init", "raw pixels"]
    assert list(written["rows"][0]["metrics"]) == ["linear-cached/top1", "linear-cached/top5", "knn-k20-T0.07/top1"]
    assert written["protocol"]["id"] == "cached"
    assert (written["num_train"], written["num_test"], len(written["classes"])) == (60, 20, 10)
    assert (written["view"], written["data"]) == (describe(recipe.eval_view), describe(recipe.data))
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": "tiny", "knobs": {}, "described": {"seed": 5}}))
    capsys.readouterr()
    assert compare.main([str(tmp_path)]) == 0
    low, high = written["rows"][0]["metrics"]["linear-cached/top1"]["interval"]
    assert f"[{low:.2f}, {high:.2f}]" in capsys.readouterr().out
