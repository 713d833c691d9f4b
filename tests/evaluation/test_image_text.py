import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import recipes
from augmentations import normalize, render_center
from data import Pairs, open_pairs
from data.folder import scan
from evaluation.image_text import (
    format_metrics,
    image_features,
    read_image_text,
    retrieval,
    text_features,
    zero_shot,
)
from evaluation.retrieval import recall
from evaluation.run_folder import rebuild
from evaluation.table import Metric, Row
from losses import SigLIP
from models import Bytes, Projection, TextTransformer, export_weights
from parallel import World
from tests.evaluation.image_text_runs import BUILD, COLOURS, TOKENIZER, VIEW, trained, write_images, write_run
from training import checkpoint
from training.recipe import describe

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
NAMES = tuple(COLOURS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def objective():
    made = BUILD()
    made.load_state_dict(trained())
    return made


@pytest.fixture
def untrained():
    torch.manual_seed(3)
    return BUILD()


def test_image_features_are_those_of_each_image(objective, untrained, root):
    """Row i is image i, of length 1; BatchNorm's statistics and the mode stay as they are."""
    images = open_pairs(root, "val")
    objective.train()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    found = image_features({"one": objective, "two": untrained}, images, VIEW, ALONE, workers=0, batch_size=4)
    assert objective.training
    assert objective.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    for name, made in (("one", objective), ("two", untrained)):
        made.eval()
        with torch.no_grad():
            pixels = [normalize(render_center(images.image(i), VIEW)[None], VIEW.mean, VIEW.std) for i in range(21)]
            rows = torch.cat([F.normalize(made.encode_image(x)) for x in pixels])
        torch.testing.assert_close(found[name], rows, atol=1e-5, rtol=0)
        assert found[name].dtype == torch.float32


def test_text_features_are_those_of_each_text(objective):
    """In the order asked for, whatever the batches; texts of equal tokens are equal to the bit, and encoded once."""
    texts = ["a red square", "blue", "A  red square", "x" * 200, "blue", "green", "x" * 150, "a"]
    seen = []
    hook = objective.text.register_forward_hook(lambda module, tokens, out: seen.append(len(out)))
    found = text_features(objective, TOKENIZER, texts, CPU, batch_size=2)
    hook.remove()
    assert sum(seen) == 5
    for first, second in ((0, 2), (1, 4), (3, 6)):
        assert torch.equal(found[first], found[second])
    objective.eval()
    with torch.no_grad():
        rows = torch.cat([F.normalize(objective.encode_text(TOKENIZER.encode([text]))) for text in texts])
    torch.testing.assert_close(found, rows, atol=1e-6, rtol=0)
    assert len({tuple(row.tolist()) for row in found}) == 5


def test_text_features_of_a_tower_that_looks_at_padding():
    """Rows are then never cut: the last position is pooled."""
    tokenizer = Bytes(32, trim=False)
    torch.manual_seed(0)
    text = TextTransformer(tokenizer, width=16, layers=1, heads=2, causal=False, pool="last")
    objective = BUILD(text=text).eval()
    texts = ["a", "a red square", "ab"]
    with torch.no_grad():
        rows = F.normalize(objective.encode_text(tokenizer.encode(texts)))
    torch.testing.assert_close(text_features(objective, tokenizer, texts, CPU, batch_size=1), rows, atol=1e-6, rtol=0)


def test_text_features_drop_nothing_of_a_tower_in_training(objective):
    """A run's end evaluates the networks that were just trained: their mode stays as it is."""
    plain = text_features(objective, TOKENIZER, ["red", "a blue square"], CPU)
    objective.text_head = nn.Sequential(objective.text_head, nn.Dropout(0.5))
    objective.train()
    assert torch.equal(text_features(objective, TOKENIZER, ["red", "a blue square"], CPU), plain)
    assert all(module.training for module in objective.modules())


def test_retrieval_takes_all_captions_and_equal_ones_as_equal(objective, untrained, root):
    """21 images of two captions, each shared by three images: who knows the colours is always right."""
    pairs = open_pairs(root, "val")
    rows = retrieval({"pretrained": objective, "random init": untrained}, TOKENIZER, pairs, VIEW, ALONE, workers=0)
    assert [row.encoder for row in rows] == ["pretrained", "random init", "chance"]
    values = [{name: metric.mean for name, metric in row.metrics.items()} for row in rows]
    name = "retrieval/image_to_text/R@1"
    assert values[0][name] == 100
    assert values[0]["retrieval/text_to_image/R@1"] == 100
    assert values[1][name] < 50
    assert values[2][name] == pytest.approx(100 / 7)  # 6 of 42 captions
    assert values[2]["retrieval/text_to_image/R@1"] == pytest.approx(100 / 7)  # 3 of 21 images
    images = image_features({"x": objective}, pairs, VIEW, ALONE, workers=0)["x"]
    texts = [text for index in range(21) for text in pairs.texts(index)]
    owner = torch.arange(21).repeat_interleave(2)
    features = text_features(objective, TOKENIZER, texts, CPU)
    assert values[0] == pytest.approx(recall(images, features, owner, texts))
    # Without the rule one of three equal captions would be right: the others are no error of the network.
    assert recall(images, features, owner)[name] == pytest.approx(100 / 3)


def test_captions_that_differ_in_case_alone_are_equal(objective, root, tmp_path):
    write_images(tmp_path)
    for file in (tmp_path / "val").rglob("1.txt"):
        file.write_text(file.read_text().upper().replace(" ", "  "))
    found = [
        retrieval({"x": objective}, TOKENIZER, open_pairs(place, "val"), VIEW, ALONE, 0) for place in (root, tmp_path)
    ]
    assert found[0] == found[1]


def test_zero_shot_takes_the_classes_in_their_order(objective, untrained, root):
    """A network that knows the colours finds them by name; names that are moved by one are always wrong."""
    images = scan(root / "val")
    both = {"pretrained": objective, "random init": untrained}
    rows = zero_shot(both, TOKENIZER, images, NAMES, ("a {} square", "{}"), VIEW, ALONE, workers=0)
    assert [row.encoder for row in rows] == ["pretrained", "random init", "chance"]
    top1 = [row.metrics["zero-shot-2templates/top1"].mean for row in rows]
    assert top1[0] == 100
    assert top1[1] < 60
    assert top1[2] == pytest.approx(100 / 7)
    assert list(rows[0].metrics) == ["zero-shot-2templates/top1", "zero-shot-2templates/top5"]
    moved = zero_shot({"x": objective}, TOKENIZER, images, (*NAMES[1:], NAMES[0]), ("{}",), VIEW, ALONE, workers=0)
    assert moved[0].metrics["zero-shot-1templates/top1"].mean == 0


def test_a_run_is_read_back_exactly(run, untrained):
    found = read_image_text(run)
    assert found.tokenizer == TOKENIZER
    assert found.view == VIEW
    state = found.objective.state_dict()
    assert state.keys() == trained().keys()
    assert all(torch.equal(value, trained()[name]) for name, value in state.items())
    assert f"all {len(state)} tensors of both towers" in str(found)
    torch.manual_seed(3)
    fresh = found.build().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in untrained.state_dict().items())


def test_a_siglip_run_without_an_image_head_is_read_back_with_its_bias(run):
    text = TextTransformer(Bytes(16, trim=False), width=16, layers=1, heads=2, causal=False, pool="last")
    build = partial(BUILD, text=text, head=None, text_head=Projection(8, bias=True), loss=SigLIP())
    made = build()
    with torch.no_grad():
        made.bias.fill_(-3.5)
    record = json.loads((run / "recipe.json").read_text())
    record["described"]["objective"] = describe(build)
    (run / "recipe.json").write_text(json.dumps(record))
    export_weights(made, run / "image_text" / "model.safetensors")
    found = read_image_text(run)
    assert found.objective.state_dict().keys() == made.state_dict().keys()
    assert found.objective.bias.item() == -3.5
    assert found.tokenizer == text.tokenizer


def test_a_run_that_still_trains_gives_its_newest_checkpoint(run):
    (run / "image_text" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"neither image_text/model\.safetensors nor a whole checkpoint"):
        read_image_text(run)
    older = {name: torch.zeros_like(value) for name, value in trained().items()}
    for step, state in ((3, older), (5, trained())):
        checkpoint.save(run / "checkpoints", step, {"step": step, "objective": state, "optimizer": {}}, keep=2)
    found = read_image_text(run)
    assert "step_00000005" in found.account.file
    assert all(torch.equal(value, trained()[name]) for name, value in found.objective.state_dict().items())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("log_scale", None, r"1 missing \(log_scale\)"),
        ("text.norm.weight", None, r"1 missing \(text\.norm\.weight\)"),
        ("text_head.weight", torch.zeros(8, 3), "of another shape"),
        ("text_head.bias", torch.zeros(8), r"1 unexpected \(text_head\.bias\)"),
        (
            "head.bias",
            torch.zeros(8),
            r"holds more than these networks: head\.",
        ),  # no classifier, as it may be for a probe
    ],
)
def test_weights_that_do_not_fit_are_refused(run, name, tensor, message):
    file = run / "image_text" / "model.safetensors"
    state = {key: value for key, value in load_file(file).items() if key != name}
    save_file(state | ({} if tensor is None else {name: tensor}), file)
    with pytest.raises(ValueError, match=message):
        read_image_text(run)


def test_a_run_without_a_text_tower_is_refused(run):
    record = json.loads((run / "recipe.json").read_text())
    objective = record["described"]["objective"]
    record["described"]["objective"] = {"kind": "JointEmbedding", "encoder": objective["encoder"]}
    (run / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"trained on images only \(recipe colours, JointEmbedding\)"):
        read_image_text(run)
    del objective["text"]["layers"]
    record["described"]["objective"] = objective
    (run / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"describes no networks that this version reads: .*layers"):
        read_image_text(run)


def test_the_networks_of_every_image_text_recipe_can_be_read_back():
    found = []
    for recipe in (recipes.load(name)() for name in recipes.names()):
        if recipe.tokenizer is not None:
            described = json.loads(json.dumps(describe(recipe)))["objective"]
            parts = {key: rebuild(part) for key, part in described.items() if key != "kind"}
            assert describe(parts) == describe(recipe.objective.keywords)
            assert parts["text"].tokenizer == recipe.tokenizer
            found.append(type(parts["loss"]).__name__)
    assert {"NPairs", "SigLIP"} <= set(found)


def test_real_captions_of_several_an_image_take_the_whole_path(real_data, objective):
    """COCO: 19 photos that are not square, five sentences each, none of them equal."""
    pairs = Pairs().open(real_data("coco_captions"), "test")
    rows = retrieval({"x": objective}, TOKENIZER, pairs, VIEW, ALONE, workers=0)
    guessed = {name: metric.mean for name, metric in rows[1].metrics.items()}
    assert guessed["retrieval/image_to_text/R@1"] == pytest.approx(500 / 95)
    assert guessed["retrieval/text_to_image/R@10"] == pytest.approx(1000 / 19)
    assert all(0 <= metric.mean <= 100 for metric in rows[0].metrics.values())


def test_the_table_has_a_line_a_metric():
    rows = [Row("trained", {"a/long/name": Metric((12.345,)), "b": Metric((1.0,))}), Row("x", {"b": Metric((100.0,))})]
    lines = format_metrics(rows).splitlines()
    assert lines == ["%            trained       x", "a/long/name    12.35       -", "b               1.00  100.00"]


def test_features_that_are_not_finite_are_refused(objective, root):
    with torch.no_grad():
        objective.text_head.weight.fill_(np.nan)
        with pytest.raises(ValueError, match="text features are not finite"):
            text_features(objective, TOKENIZER, ["a"], CPU)
        objective.head.weight.fill_(np.nan)
    with pytest.raises(ValueError, match="x gives features that are not finite"):
        image_features({"x": objective}, open_pairs(root, "val"), VIEW, ALONE, workers=0)
