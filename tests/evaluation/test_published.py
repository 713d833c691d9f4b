"""Published weights by name, without a network: caches that the tests fill, and clear words where there is nothing."""

import json

import pytest
import torch
from safetensors.torch import save_file

import eval_linear
from augmentations import Center
from evaluation.published import network, published_state, published_view
from models import Backbone


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Both libraries' caches are empty folders, and nothing is fetched."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))

    def refused(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    return tmp_path


def test_views_are_the_publishers():
    assert published_view("timm:resnet10t.c3_in1k") == Center(201, 176, "bicubic")  # crop_pct 0.875
    assert published_view("torchvision:resnet18") == Center(256, 224, "bilinear")
    assert published_view("torchvision:resnet50.IMAGENET1K_V2") == Center(232, 224, "bilinear")
    assert network("torchvision:resnet50.IMAGENET1K_V2") == "resnet50"
    assert network("timm:resnet10t") == network("timm:resnet10t.c3_in1k") == "resnet10t.c3_in1k"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("timm:resnet10t.tag", r"timm has no weights 'resnet10t\.tag', but resnet10t\.c3_in1k"),
        ("timm:nonsense", "timm has no weights 'nonsense'"),
        ("torchvision:vit_b_16", "is none of .*resnet50"),
        ("torchvision:resnet50.V3", "no weights 'V3', only IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_unknown_names_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        network(weights)


def test_a_view_that_distorts_is_refused():
    with pytest.raises(ValueError, match="squashed"):
        published_view("timm:convnext_base.fb_in22k_ft_in1k_384")


@pytest.mark.parametrize("weights", ["timm:resnet10t.c3_in1k", "torchvision:resnet18"])
def test_without_a_network_the_message_says_what_to_do(offline, weights):
    with pytest.raises(ValueError, match=r"is not in .* and could not be fetched .*fetch it once where there is a net"):
        published_state(weights, Backbone(network(weights)))


def test_torchvisions_come_from_its_cache(offline):
    from torchvision.models import ResNet18_Weights, resnet18

    folder = offline / "torch" / "checkpoints"
    folder.mkdir(parents=True)
    state = resnet18().state_dict()
    torch.save(state, folder / ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1])
    found, digest = published_state("torchvision:resnet18", Backbone("resnet18"))
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert len(digest) == 64


def test_timms_are_evaluated_from_its_cache(offline, tmp_path, images, capsys, monkeypatch):
    """The whole way: name, cache, view, table and result."""
    import timm

    torch.manual_seed(1)
    state = timm.create_model("resnet10t", num_classes=1000).state_dict()
    repo = offline / "hub" / "models--timm--resnet10t.c3_in1k"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(state, repo / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    argv = [
        "--weights",
        "timm:resnet10t.c3_in1k",
        "--data",
        str(images),
        "--size",
        "32",
        "--knn-k",
        "3",
        "--workers",
        "0",
    ]
    assert eval_linear.main([*argv, "--epochs", "1", "--seeds", "1"]) == 0
    result = json.loads((tmp_path / "timm-resnet10t.c3_in1k.cached-1ep.json").read_text())
    assert (result["weights"]["file"], result["weights"]["num_loaded"]) == ("timm:resnet10t.c3_in1k", len(state) - 2)
    assert (result["view"]["size"], result["view"]["interpolation"]) == (32, "bicubic")
    assert result["backbone"]["name"] == "resnet10t.c3_in1k"
    assert "timm:resnet10t.c3_in1k, sha256" in capsys.readouterr().out
    assert eval_linear.main([*argv, "--backbone", "resnet10t"]) == 2
    assert "leave --backbone and --prefix out" in capsys.readouterr().err
