"""Files of other projects, built here as their source writes them: names and prefixes, at tiny width."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from augmentations import Center
from evaluation.command import resolve
from evaluation.flags import Images, Subject
from evaluation.layouts import COMMON, EVALUATED, NAMINGS
from evaluation.subject import check_side, filled
from evaluation.weights import fill, load, told_backbone
from models import Backbone

RESNET = Backbone("resnet18", {"channels": (64, 8, 8, 8)})  # torchvision's names, as the first test holds
VIT = Backbone("vit_small_patch16_224", {"embed_dim": 8, "depth": 2, "num_heads": 2})
SMALL_VIT = {  # every tensor of a ViT of width 8 by hand: DINO vision_transformer.py at 7c446df; MoCo v3: timm's own
    "cls_token": (1, 1, 8),
    "pos_embed": (1, 197, 8),
    "patch_embed.proj.weight": (8, 3, 16, 16),
    "patch_embed.proj.bias": (8,),
    "norm.weight": (8,),
    "norm.bias": (8,),
    **{
        f"blocks.{block}.{name}": shape
        for block in range(2)
        for name, shape in {
            "norm1.weight": (8,),
            "norm1.bias": (8,),
            "attn.qkv.weight": (24, 8),
            "attn.qkv.bias": (24,),
            "attn.proj.weight": (8, 8),
            "attn.proj.bias": (8,),
            "norm2.weight": (8,),
            "norm2.bias": (8,),
            "mlp.fc1.weight": (32, 8),
            "mlp.fc1.bias": (32,),
            "mlp.fc2.weight": (8, 32),
            "mlp.fc2.bias": (8,),
        }.items()
    },
}


def resnet_state(seed):
    torch.manual_seed(seed)
    return RESNET.build()[0].state_dict()


def vit_state(seed):
    torch.manual_seed(seed)
    return {name: torch.randn(shape) for name, shape in SMALL_VIT.items()}


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def mlp(prefix, *numbers):
    """Returns a head's tensors: some layers of an nn.Sequential."""
    return {f"{prefix}{number}.weight": torch.zeros(2) for number in numbers}


def one(prefix, *more):
    """Returns the function that stores one encoder, and what stands beside it."""
    return lambda state, _: {name: value for part in (under(prefix, state), *more) for name, value in part.items()}


def two(evaluated, other, *more):
    """Returns the function that stores two encoders: the one that the project evaluates, and the other."""
    return lambda state, rest: one(evaluated, under(other, rest), *more)(state, rest)


def dino(evaluated, other):
    """main_dino.py at 7c446df: everything of a run; eval_linear.py takes the teacher."""

    def content(state, rest):
        head = {
            "mlp.0.weight": torch.zeros(2),
            "last_layer.weight_g": torch.zeros(2),
            "last_layer.weight_v": torch.zeros(2),
        }
        return {
            "student": one(other, under(other.replace("backbone.", "head."), head))(rest, None),
            "teacher": one(evaluated, under(evaluated.replace("backbone.", "head."), head))(state, None),
            "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": np.float64(0.1)}]},
            "epoch": 100,
            "args": argparse.Namespace(arch="vit_small", local_crops_scale=(0.05, 0.4)),
            "dino_loss": {"center": torch.zeros(1, 4)},
        }

    return content


# name of the layout -> (states, file's content from (evaluated, other), prefix, what is left out)
LAYOUTS = {
    # facebookresearch/barlowtwins main.py at 8e8d284
    "Barlow Twins resnet50.pth": (resnet_state, one(""), "", {}),
    "Barlow Twins checkpoint.pth": (
        resnet_state,
        lambda state, _: {
            "epoch": 1000,
            "model": one("module.backbone.", mlp("module.projector.", 0, 1, 3), mlp("module.", "bn"))(state, _),
            "optimizer": {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": [{"lr": 0.2, "params": [0]}]},
        },
        "model.module.backbone.",
        {"model.module.projector.": 3, "model.module.bn.": 1, "optimizer.": 1},
    ),
    # facebookresearch/vicreg main_vicreg.py at 4e12602: model.pth while it trains, resnet50.pth at the end
    "VICReg model.pth": (
        resnet_state,
        lambda state, _: {"epoch": 1, "model": one("module.backbone.", mlp("module.projector.", 0, 1, 3))(state, _)},
        "model.module.backbone.",
        {"model.module.projector.": 3},
    ),
    # facebookresearch/moco-v3 main_moco.py, moco/builder.py and main_lincls.py at c349e6e
    "MoCo v3 ResNet": (
        resnet_state,
        lambda state, rest: {
            "epoch": 100,
            "arch": "resnet50",
            "state_dict": two(
                "module.base_encoder.",
                "module.momentum_encoder.",
                mlp("module.base_encoder.fc.", 0, 1, 3, 4),
                mlp("module.momentum_encoder.fc.", 0, 1, 3, 4),
                mlp("module.predictor.", 0, 1, 3),
            )(state, rest),
            "scaler": {"scale": 1.0},
        },
        "state_dict.module.base_encoder.",
        {
            "state_dict.module.momentum_encoder.": 124,
            "state_dict.module.base_encoder.fc.": 4,
            "state_dict.module.predictor.": 3,
        },
    ),
    "MoCo v3 ViT": (
        vit_state,
        lambda state, rest: {
            "state_dict": two(
                "module.base_encoder.", "module.momentum_encoder.", mlp("module.base_encoder.head.", 0, 1, 3, 4, 6, 7)
            )(state, rest)
        },
        "state_dict.module.base_encoder.",
        {"state_dict.module.momentum_encoder.": 30, "state_dict.module.base_encoder.head.": 6},
    ),
    # facebookresearch/dino at 7c446df: *_pretrain.pth, and checkpoint.pth; the teacher is in DDP if it has BatchNorm
    "DINO ViT pretrain.pth": (vit_state, one(""), "", {}),
    "DINO ViT checkpoint.pth": (
        vit_state,
        dino("backbone.", "module.backbone."),
        "teacher.backbone.",
        {"student.": 33, "teacher.head.": 3, "dino_loss.": 1},
    ),
    "DINO ResNet checkpoint.pth": (
        resnet_state,
        dino("module.backbone.", "module.backbone."),
        "teacher.module.backbone.",
        {"student.": 123, "teacher.module.head.": 3, "dino_loss.": 1},
    ),
    # vturrisi/solo-learn solo/methods/base.py and main_linear.py at 9187ea3; it said encoder before backbone
    "solo-learn": (
        resnet_state,
        lambda state, _: {"state_dict": one("backbone.", mlp("projector.", 0, 1), mlp("", "classifier"))(state, _)},
        "state_dict.backbone.",
        {"state_dict.projector.": 2, "state_dict.classifier.": 1},
    ),
    "solo-learn ViT with momentum": (
        vit_state,
        lambda state, rest: {"state_dict": two("backbone.", "momentum_backbone.", mlp("projector.", 0))(state, rest)},
        "state_dict.backbone.",
        {"state_dict.momentum_backbone.": 30, "state_dict.projector.": 1},
    ),
    "solo-learn before": (
        resnet_state,
        lambda state, rest: {"state_dict": two("encoder.", "momentum_encoder.")(state, rest)},
        "state_dict.encoder.",
        {"state_dict.momentum_encoder.": 120},
    ),
    # lightly-ai/lightly at e8d317f: benchmarks/imagenet/resnet50/byol.py and dino.py, vitb16/dino.py and dinov2.py
    "lightly BYOL": (
        resnet_state,
        lambda state, rest: {
            "state_dict": two("backbone.", "teacher_backbone.", mlp("projection_head.", 0))(state, rest)
        },
        "state_dict.backbone.",
        {"state_dict.teacher_backbone.": 120, "state_dict.projection_head.": 1},
    ),
    "lightly DINO ViT": (
        vit_state,
        lambda state, rest: {
            "state_dict": two("backbone.vit.", "student_backbone.vit.", {"backbone.mask_token": torch.zeros(1, 1, 8)})(
                state, rest
            )
        },
        "state_dict.backbone.vit.",
        {"state_dict.student_backbone.": 30, "state_dict.backbone.mask_token": 1},
    ),
    "lightly DINOv2": (
        vit_state,
        lambda state, rest: {"state_dict": two("teacher_backbone.vit.", "student_backbone.vit.")(state, rest)},
        "state_dict.teacher_backbone.vit.",
        {"state_dict.student_backbone.": 30},
    ),
}


def test_the_tiny_networks_have_the_names_of_the_real_ones():
    from torchvision.models import resnet18

    assert [*resnet_state(0), "fc.weight", "fc.bias"] == list(resnet18().state_dict())
    assert {key: tuple(value.shape) for key, value in VIT.build()[0].state_dict().items()} == SMALL_VIT


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout(tmp_path, name):
    """The encoder that its project evaluates is found without a word, and every other tensor is accounted for."""
    states, content, prefix, left_out = LAYOUTS[name]
    state, other = states(1), states(2)
    torch.save(content(state, other), tmp_path / "file.pth")
    encoder, _ = (RESNET if states is resnet_state else VIT).build()
    account = load(encoder, tmp_path / "file.pth")
    assert (account.prefix, account.left_out) == (prefix, left_out)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_the_student_of_dino_can_be_named(tmp_path):
    state, other = vit_state(1), vit_state(2)
    torch.save(dino("backbone.", "module.backbone.")(state, other), tmp_path / "file.pth")
    encoder, _ = VIT.build()
    for prefix in ("module.backbone.", "student.module.backbone."):
        assert load(encoder, tmp_path / "file.pth", prefix).prefix == "student.module.backbone."
        assert torch.equal(encoder.state_dict()["cls_token"], other["cls_token"])


def test_every_default_between_two_encoders_is_one_way():
    assert not {(second, first) for first, second in EVALUATED} & set(EVALUATED)


def test_a_sequential_of_torchvisions_resnet_computes_the_same():
    """nn.Sequential(*list(resnet.children())[:-1]): lightly examples/pytorch/barlowtwins.py at e8d317f."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    numbered = nn.Sequential(*list(resnet18().children())[:-1]).eval()
    encoder, _ = Backbone("resnet18").build()
    state = under("backbone.", numbered.state_dict()) | mlp("projection_head.layers.", 0, 1, 3)
    account = fill(encoder, state, "file")
    assert (account.prefix, account.left_out) == ("backbone.", {"projection_head.": 3})
    assert "numbered: torchvision's ResNet" in str(account)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(images), numbered(images).flatten(1))


class LightlyBlock(nn.Module):
    """By the names and the order of lightly/models/resnet.py at e8d317f."""

    def __init__(self, width, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or width != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(width, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()


def test_a_sequential_of_lightlys_own_resnet_computes_the_same():
    """docs/.../cifar10_benchmark.py at e8d317f: the children in a Sequential, so no ReLU after the first layer."""
    torch.manual_seed(0)
    widths = [(64, 64, 1), (64, 8, 2), (8, 8, 2), (8, 8, 2)]
    layers = [nn.Sequential(LightlyBlock(w, p, s), LightlyBlock(p, p, 1)) for w, p, s in widths]
    stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
    numbered = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1)).eval()
    state = under("state_dict.backbone.", numbered.state_dict())
    encoder, _ = Backbone(RESNET.name, RESNET.kwargs, "cifar-no-relu").build()
    account = fill(encoder, state, "file")
    assert (account.prefix, account.num_loaded, account.left_out) == ("state_dict.backbone.", 120, {})
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(images), numbered(images).flatten(1))
    with pytest.raises(ValueError, match="does not hold this encoder's 120 tensors"):  # with a ReLU: another function
        fill(Backbone(RESNET.name, RESNET.kwargs, "cifar").build()[0], state, "file")


def test_lightlys_own_resnet_is_told_by_its_names():
    full = Backbone("resnet18", stem="cifar-no-relu")
    naming = next(naming for naming in NAMINGS if naming.without)
    state = {f"backbone.{naming(key)}": value for key, value in full.build()[0].state_dict().items()}
    assert told_backbone(state, "file") == full


def test_the_command_needs_no_backbone_where_the_keys_tell(tmp_path, images):
    state = {key: value.half() for key, value in Backbone("resnet18").build()[0].state_dict().items()}
    torch.save({"model": under("module.backbone.", state)}, tmp_path / "checkpoint.pth")
    subject = Subject(weights=str(tmp_path / "checkpoint.pth"))
    backbone, view, _, _ = resolve(subject, Images(data=images, interpolation="bicubic"))
    assert (backbone, view) == (Backbone("resnet18"), Center(interpolation="bicubic"))
    assert filled(subject, backbone)[1].num_loaded == 120


def test_dinov2_has_timms_names():
    """facebookresearch/dinov2 dinov2/models/vision_transformer.py and layers/block.py at b8931f7, without registers."""
    scales = {f"blocks.{block}.{name}.gamma": torch.zeros(8) for block in range(2) for name in ("ls1", "ls2")}
    state = vit_state(1) | {"pos_embed": torch.randn(1, 1370, 8), "patch_embed.proj.weight": torch.randn(8, 3, 14, 14)}
    encoder, _ = Backbone("vit_small_patch14_dinov2", {**VIT.kwargs, "dynamic_img_size": True}).build()
    account = fill(encoder, {**state, **scales, "mask_token": torch.zeros(1, 8)}, "dinov2_vits14_pretrain.pth")
    assert (account.num_loaded, account.left_out) == (34, {"mask_token": 1})
    check_side(encoder, Center())
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 28, 28)).shape == (1, 8)


def test_a_transformer_of_another_side_is_refused():
    encoder, _ = VIT.build()
    check_side(encoder, Center())
    with pytest.raises(
        ValueError, match=r"takes images of 224 x 224 pixels, and the view gives 96 x 96: give --size 224"
    ):
        check_side(encoder, Center(96, 96))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "vit_small_patch16_224"])
def test_a_common_network_has_the_tensor_it_is_looked_for_by(name):
    for (end, shape), backbones in COMMON.items():
        for backbone in backbones:
            if backbone.name == name:
                with torch.device("meta"):
                    state = backbone.build()[0].state_dict()
                assert any(key.endswith(end) and value.shape == shape for key, value in state.items()), backbone
