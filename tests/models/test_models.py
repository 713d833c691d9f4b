"""Backbones by name, CIFAR stems, heads as the papers lay them out, exact recomputation, export and reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from models import Backbone, Mlp, export_encoder, recompute_activations


def images(side: int = 32, rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_any_timm_network_gives_the_width_it_says(name: str) -> None:
    module, width = Backbone(name).build()
    assert module.eval()(images(64)).shape == (4, width)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_the_width_is_that_of_the_pooled_features(name: str, pool: str) -> None:
    module, width = Backbone(name, {"global_pool": pool}).build()
    assert module.eval()(images(64)).shape == (4, width)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("cifar", 32), ("cifar-pad2", 34), ("cifar-no-relu", 32)])
def test_stems_give_the_maps_they_say(stem: str, side: int) -> None:
    module, _ = Backbone("resnet18", stem=stem).build()  # ty: ignore
    maps: list[Tensor] = []
    module.layer1.register_forward_pre_hook(lambda _module, inputs: maps.append(inputs[0]))
    module.eval()(images())
    assert maps[0].shape[-2:] == (side, side)


def test_the_cifar_stem_is_initialised_like_the_rest_of_a_resnet() -> None:
    module, _ = Backbone("resnet18", stem="cifar").build()
    fan_out = 64 * 3 * 3
    assert module.conv1.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_gamma_of_each_residual_branch_starts_at_zero() -> None:
    module, _ = Backbone("resnet50").build()
    last = [block.bn3.weight for layer in (module.layer1, module.layer4) for block in layer]
    assert all(bool((gamma == 0).all()) for gamma in last)


def test_moco_v3_vit_has_twelve_heads() -> None:
    module, width = Backbone("vit_small_patch16_224", {"num_heads": 12, "img_size": 32}).build()
    assert module.blocks[0].attn.num_heads == 12
    assert width == 384


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Backbone("resnet5"), "did you mean resnet50"),
        (Backbone("resnet18", {"chanels": 3}), "does not take"),
        (Backbone("vit_tiny_patch16_224", stem="cifar"), "stem='imagenet'"),
        (Backbone("resnet10t", stem="cifar"), "stem='imagenet'"),  # its stem is three convolutions
        (Backbone("resnet18", stem="mnist"), "none of"),  # ty: ignore
    ],
)
def test_what_cannot_be_built_is_refused(spec: Backbone, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.build()


def layout(module: nn.Module) -> list[str]:
    kinds = []
    for layer in module:  # ty: ignore
        name = type(layer).__name__
        kinds.append(name + ("+bias" if isinstance(layer, nn.Linear) and layer.bias is not None else ""))
    return kinds


def test_heads_have_the_papers_layout() -> None:
    hidden, biased = ["Linear", "BatchNorm1d", "ReLU"], ["Linear+bias", "BatchNorm1d", "ReLU"]
    assert layout(Mlp((8, 8, 4)).build(6)) == [*hidden, *hidden, "Linear"]
    assert layout(Mlp((8, 8, 4), hidden_bias=True).build(6)) == [*biased, *biased, "Linear"]
    plain = Mlp((8, 4), norm=False, hidden_bias=True, last_bias=True)
    assert layout(plain.build(6)) == ["Linear+bias", "ReLU", "Linear+bias"]
    head = Mlp((8, 4), last_norm="scale").build(6)
    assert layout(head) == [*hidden, "Linear", "BatchNorm1d"]
    assert head[-1].weight.requires_grad
    assert not head[-1].bias.requires_grad
    assert Mlp((8, 4), last_norm="plain").build(6)[-1].weight is None


@pytest.mark.parametrize("widths", [(), (8, 0)])
def test_a_head_without_width_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Mlp(widths)


@pytest.mark.parametrize(
    "spec", [Backbone("resnet10t"), Backbone("vit_tiny_patch16_224", {"img_size": 32, "depth": 2})]
)
def test_recomputed_blocks_train_exactly_as_plain_ones(spec: Backbone) -> None:
    """Gradients, and BatchNorm's running statistics too, which a plain second forward would move twice."""
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        module, _ = spec.build()
        module = module.double().train()
        if recompute:
            assert recompute_activations(module) >= 2
        for _ in range(2):
            module.zero_grad()
            module(images().double()).square().sum().backward()
        results.append(({k: p.grad for k, p in module.named_parameters()}, dict(module.named_buffers())))
    (grads, buffers), (grads_again, buffers_again) = results
    assert grads.keys() == grads_again.keys()
    for key, grad in grads.items():
        assert torch.equal(grad, grads_again[key]), key
    for key, buffer in buffers.items():
        assert torch.equal(buffer, buffers_again[key]), key


def test_recomputing_needs_blocks() -> None:
    with pytest.raises(ValueError, match="no blocks"):
        recompute_activations(nn.Linear(2, 2))


PREPROCESSING = {
    "input_size": (3, 32, 32),
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.2, 0.3),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
}


def test_timm_reloads_an_exported_encoder(tmp_path: Path) -> None:
    spec = Backbone("resnet10t", {"channels": (8, 16, 24, 32)})
    module, _ = spec.build()
    module = module.to(memory_format=torch.channels_last).eval()
    expected = module(images())
    export_encoder(module, spec, tmp_path / "encoder", PREPROCESSING)
    again = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(again(images()), expected, rtol=1e-5, atol=1e-6)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())["pretrained_cfg"]
    assert config["mean"] == [0.4, 0.5, 0.6]
    assert config["input_size"] == [3, 32, 32]
    assert config["crop_pct"] == 0.875


def test_timm_refuses_an_encoder_with_a_cifar_stem(tmp_path: Path) -> None:
    spec = Backbone("resnet18", stem="cifar")
    module, _ = spec.build()
    export_encoder(module, spec, tmp_path / "encoder", PREPROCESSING)
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["stem"] == "cifar"
    with pytest.raises(RuntimeError, match="conv1"):
        timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0)
