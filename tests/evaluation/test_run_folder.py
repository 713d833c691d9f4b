import json

import pytest

from augmentations import Center
from data import Cifar10, ImageFolder, Pairs, Shapes
from evaluation.run_folder import image_folder, read_run, rebuild
from losses import NPairs, SigLIP
from models import Backbone, Bpe, Bytes, Projection, TextTransformer
from training.recipe import describe

SPECS = [
    Center(resize=None, size=32, mean=(0.1, 0.2, 0.3)),
    Backbone("vit_small_patch16_224", {"num_heads": 12}),
    Backbone("resnet18", stem="cifar-pad2"),
    ImageFolder(train="a", test="b"),
    Cifar10(),
    Shapes(num_train=7),
    Pairs(test=None, caption="title"),
    TextTransformer(Bytes(64, trim=False), width=8, layers=1, heads=2, causal=False, pool="last"),
    TextTransformer(Bpe(), width=8, layers=1, heads=2),
    Projection(8),
    NPairs(temperature=0.1),
    SigLIP(),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_rebuild_is_the_inverse_of_describe(spec):
    assert rebuild(json.loads(json.dumps(describe(spec)))) == spec


def test_every_recipe_can_be_read_back(tmp_path):
    """A new data set or view that the evaluation does not know would show here."""
    import recipes

    for name in recipes.names():
        recipe = recipes.load(name)()
        (tmp_path / "recipe.json").write_text(json.dumps({"recipe": name, "described": describe(recipe)}))
        run = read_run(tmp_path)
        assert run.recipe == name
        assert (run.view, run.data) == (recipe.eval_view, recipe.data)
        encoder = recipe.objective.keywords["encoder"]
        assert (run.backbone.name, run.backbone.stem) == (encoder.name, encoder.stem)
        assert run.data_root is None


def test_the_images_of_the_last_attempt_are_found(tmp_path):
    described = {"objective": {"encoder": describe(Backbone("resnet18"))}, "eval_view": describe(Center())}
    record = {"recipe": "x", "described": {**described, "data": describe(ImageFolder())}}
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    attempts = [{"folder": "/a", "place": {"data": "old"}}, {"folder": "/a", "place": {"data": "images"}}]
    (tmp_path / "environment.json").write_text(json.dumps({"attempts": attempts}))
    assert str(read_run(tmp_path).data_root) == "/a/images"
    attempts.append({"folder": "/a", "place": {"data": "/absolute"}})
    (tmp_path / "environment.json").write_text(json.dumps({"attempts": attempts}))
    assert str(read_run(tmp_path).data_root) == "/absolute"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "recipe.json is no record"),
        ("[]", "recipe.json is no record"),
        ('{"described": {}}', "objective"),
        ('{"described": {"objective": {"encoder": {}}, "eval_view": {}, "data": {}}}', "should be a Backbone"),
        ('{"described": {"objective": {"encoder": {"kind": "Magic"}}, "eval_view": {}, "data": {}}}', "Magic"),
        ('{"described": {"objective": {"encoder": {"kind": "Backbone", "n": 1}}, "eval_view": {}, "data": {}}}', "'n'"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, text, message):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_folder_of_runs_names_the_runs(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "recipe.json").touch()
    with pytest.raises(ValueError, match=r"no recipe\.json.*first"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        read_run(tmp_path / "absent")


def test_folders_are_recognised(tmp_path):
    for name in ("imagenet/val", "cifar/test", "both/test", "both/val"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "batches" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "batches" / "cifar-10-batches-py" / "batches.meta").touch()
    assert image_folder(tmp_path / "imagenet") == ImageFolder(test="val")
    assert image_folder(tmp_path / "cifar") == ImageFolder(test="test")
    assert image_folder(tmp_path / "both") == ImageFolder(test="val")
    assert image_folder(tmp_path / "batches") == Cifar10()
