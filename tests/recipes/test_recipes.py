"""Every recipe builds with small knobs and takes steps on the CPU; it is described as JSON and names its source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import recipes
from data.ahead import to_device
from data.batches import StepBatches
from models import Bytes
from objectives import Step
from training.recipe import Recipe, describe, first_difference
from training.schedule import learning_rate, set_learning_rate

# Knobs that make a recipe small enough to step here; everything else is the recipe's own.
SMALL = {"batch_size": 8, "width": 32, "size": 32, "images": 16, "epochs": 2, "text_layers": 1, "warmup_steps": 1}
CPU = torch.device("cpu")


def knobs(name: str) -> dict[str, int]:
    return {key: value for key, value in SMALL.items() if key in inspect.signature(recipes.load(name)).parameters}


def steps(recipe: Recipe, root: Path | None, count: int = 2) -> list[float]:
    """Returns the losses of `count` training steps, as pretrain.py takes them."""
    images = recipe.data.open(root, "train")
    torch.manual_seed(recipe.seed)
    objective = recipe.objective()
    optimizer = recipe.optimizer.build(objective)
    forward = Step(objective, "fp32")
    batches = StepBatches(images, recipe.views, recipe.seed, recipe.batch_size, 0, 1, False, recipe.tokenizer)
    losses = []
    for step in range(count):
        set_learning_rate(optimizer, learning_rate(step, 10, 1))
        batch = to_device(batches[step], recipe.views, CPU, channels_last=True)
        terms, _ = forward(batch, step / count)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated ImageFolder tree that serves ImageNet's and CIFAR's recipes alike; captions beside the images."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("n01", "n02"):
            (root / split / label).mkdir(parents=True)
            for number in range(9):
                pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.jpg")
                (root / split / label / f"{number}.txt").write_text(f"noise {number % 4} of {label}")
    return root


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_takes_steps(name: str, folder: Path) -> None:
    recipe = recipes.load(name)(**knobs(name))
    losses = steps(recipe, folder)
    assert all(math.isfinite(loss) for loss in losses)
    assert recipe.objective().encoder is not None


@pytest.mark.parametrize("name", recipes.names())
def test_every_parameter_is_trained(name: str, folder: Path) -> None:
    """Gradients reach every parameter of the objective: nothing stands beside the loss by mistake."""
    recipe = recipes.load(name)(**knobs(name))
    torch.manual_seed(0)
    objective = recipe.objective()
    images = recipe.data.open(folder, "train")
    batches = StepBatches(images, recipe.views, recipe.seed, recipe.batch_size, 0, 1, False, recipe.tokenizer)
    terms, _ = Step(objective)(to_device(batches[0], recipe.views, CPU, channels_last=False), 0.0)
    torch.stack(list(terms.values())).sum().backward()
    without = [key for key, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    text = ast.get_docstring(ast.parse(recipes.source_text(name))) or ""
    for words in ("Source:", "Published:", f"python pretrain.py {name}"):
        assert words in text
    assert "arXiv" in text or "solo-learn at" in text
    assert recipes.summary(name).count(",") >= 2  # method, backbone, data


@pytest.mark.parametrize("name", recipes.names())
def test_every_knob_has_a_default_and_a_meaning(name: str) -> None:
    function = recipes.load(name)
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    assert {"epochs", "batch_size", "seed"} <= parameters.keys()
    for key, parameter in parameters.items():
        assert parameter.default is not inspect.Parameter.empty
        assert get_origin(hints[key]) is Annotated, f"{name}: {key} has no meaning for --help"


@pytest.mark.parametrize("name", recipes.names())
def test_a_description_is_json_and_tells_any_two_runs_apart(name: str) -> None:
    function = recipes.load(name)
    described = describe(function())
    assert json.loads(json.dumps(described)) == described
    assert first_difference(described, describe(function())) is None
    for key, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if isinstance(default, int | float) and not isinstance(default, bool):
            other = default + 1 if key == "seed" else default * 2
            assert first_difference(described, describe(function(**{key: other}))), f"{name}: {key} is not described"


def test_the_first_differing_field_is_named() -> None:
    function = recipes.load("barlow_twins_rn50")
    found = first_difference(describe(function()), describe(function(lambd=0.01)))
    assert found == "objective.loss.lambd: 0.0051 there, 0.01 here"


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean vicreg_rn50"):
        recipes.load("vicreg_rn5")


def test_the_published_scaling_of_barlow_twins() -> None:
    """0.2 and 0.0048 a 256 rows, the latter and the decay moved over from gradients that were 1/16 of the whole."""
    optimizer = recipes.load("barlow_twins_rn50")().optimizer
    assert optimizer.lr == pytest.approx(1.6)
    assert optimizer.lr_vectors * 16 == pytest.approx(0.0048 * 8)
    assert optimizer.weight_decay / 16 == pytest.approx(1e-6)


@pytest.mark.parametrize("name", ["barlow_twins_rn50", "vicreg_rn50", "simclr_rn50", "barlow_twins_vits16"])
def test_steps_on_real_photos(name: str, real_data: Callable[[str], Path]) -> None:
    """The papers' recipes at their own view size, on ImageNet-shaped data."""
    recipe = recipes.load(name)(batch_size=4, width=64, epochs=1)
    assert recipe.views[0].size == 224
    assert all(math.isfinite(loss) for loss in steps(recipe, real_data("tiny64")))


@pytest.mark.parametrize(
    ("name", "count"), [("clip_rn50_cc3m", 102_007_137), ("clip_vitb32", 151_277_313), ("siglip_vitb16", None)]
)
def test_image_text_networks_have_the_sizes_of_open_clips(name: str, count: int | None) -> None:
    """Parameters of `open_clip.create_model("RN50")`, `("ViT-B-32")` and `("ViT-B-16-SigLIP")` at 3.3.0."""
    with torch.device("meta"):
        objective = recipes.load(name)().objective()
    found = sum(p.numel() for p in objective.parameters())
    if count is None:  # our vocabulary has 49,408 tokens, theirs 32,000
        found, count = found - (49_408 - 32_000) * 768, 203_155_970
    assert found == count


def test_the_published_numbers_of_clip() -> None:
    recipe = recipes.load("clip_rn50_cc3m")()
    assert (recipe.batch_size, recipe.epochs, recipe.warmup_steps, recipe.optimizer.lr) == (1024, 30, 10_000, 1e-3)
    assert recipe.optimizer.betas == (0.9, 0.999)
    vit = recipes.load("clip_vitb32")()
    assert (vit.batch_size, vit.epochs, vit.warmup_steps, vit.optimizer.lr) == (32_768, 32, 2000, 5e-4)
    assert (vit.optimizer.betas, vit.optimizer.eps, vit.optimizer.weight_decay) == ((0.9, 0.98), 1e-6, 0.2)
    assert 1 / vit.objective().log_scale.exp().item() == pytest.approx(0.07)
    siglip = recipes.load("siglip_vitb16")().objective()
    assert (siglip.log_scale.exp().item(), siglip.bias.item()) == (pytest.approx(10), -10)


def test_warmup_is_counted_in_steps_or_in_epochs() -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        dataclasses.replace(recipes.load("demo")(), warmup_steps=10)


@pytest.mark.parametrize("tokenizer", [None, Bytes(16)])
def test_a_recipe_and_its_text_tower_have_one_tokenizer(tokenizer: Bytes | None) -> None:
    """Else tokens outside the vocabulary would end the run in its first step."""
    with pytest.raises(ValueError, match="is not the text tower's"):
        dataclasses.replace(recipes.load("npairs_demo")(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="is not the text tower's"):
        dataclasses.replace(recipes.load("demo")(), tokenizer=Bytes(16))


@pytest.mark.parametrize("name", ["clip_rn50_cc3m", "siglip_vitb16"])
def test_steps_on_photos_with_sentences(name: str, real_data: Callable[[str], Path]) -> None:
    """At their own view size, on photos that are not square with five captions each, by CLIP's tokens."""
    pytest.importorskip("open_clip")
    recipe = recipes.load(name)(batch_size=4, epochs=1, text_layers=2, **({"width": 64} if "clip_" in name else {}))
    assert recipe.views[0].size == 224
    assert all(math.isfinite(loss) for loss in steps(recipe, real_data("coco_captions")))
