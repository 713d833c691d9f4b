"""What other projects' files look like: names of a network's parts, which of two encoders counts, common networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from models import Backbone
from models.backbone import Stem


@dataclass(frozen=True)
class Naming:
    """How a file names the tensors of an encoder: called on our key, it returns the file's.

    what: for people.
    first: our first part of a key -> the file's.
    inside: any later part of ours -> the file's.
    without: modules of ours that such a network lacks: an encoder that has them is another function of its tensors.
    """

    what: str
    first: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def __call__(self, key: str) -> str:
        """Returns the file's name of our tensor `key`, without a prefix."""
        first, *rest = key.split(".")
        return ".".join([self.first.get(first, first), *(self.inside.get(part, part) for part in rest)])


AS_OURS = Naming("named as here")  # timm's names, which are torchvision's for a ResNet
NAMINGS = (
    AS_OURS,
    # nn.Sequential(*list(resnet.children())[:-1]): relu is 2 and max-pool 3, without tensors.
    # Source: lightly examples/pytorch/barlowtwins.py and examples/pytorch_lightning/ at e8d317f.
    Naming(
        "numbered: torchvision's ResNet in an nn.Sequential",
        first={"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"},
    ),
    # The same of lightly's own ResNet, which has no max-pool. Its ReLU is a function, not a child, so that the
    # Sequential has none after the first convolution.
    # Source: lightly models/resnet.py and docs/source/getting_started/benchmarks/cifar10_benchmark.py at e8d317f.
    Naming(
        "numbered: lightly's ResNet for small images in an nn.Sequential",
        first={"conv1": "0", "bn1": "1", "layer1": "2", "layer2": "3", "layer3": "4", "layer4": "5"},
        inside={"downsample": "shortcut"},
        without=("act1",),
    ),
)

# Of two encoders in a file, the one that the project itself evaluates stands first; the names are parts of prefixes.
EVALUATED = (
    ("teacher", "student"),  # DINO: eval_linear.py --checkpoint_key at 7c446df
    ("base_encoder", "momentum_encoder"),  # MoCo v3: main_lincls.py at c349e6e
    ("backbone", "momentum_backbone"),  # solo-learn: main_linear.py at 9187ea3
    ("encoder", "momentum_encoder"),  # solo-learn before it said backbone: there, too
    # lightly: what `forward` of its modules uses, in benchmarks/imagenet/ and examples/ at e8d317f
    ("backbone", "student_backbone"),
    ("backbone", "teacher_backbone"),
    ("backbone", "key_backbone"),
    ("backbone", "backbone_momentum"),
    ("teacher_backbone", "student_backbone"),
)

# What may stand beside a backbone under its own prefix; the classifier that timm names for the backbone comes on top.
# mask_token: DINOv2's vision_transformer.py at b8931f7 and lightly's masked transformers; evaluation masks nothing.
HEADS = ("fc", "head", "classifier", "projector", "predictor", "mask_token")


def _resnets(*names: str) -> tuple[Backbone, ...]:
    return tuple(Backbone(name, stem=stem) for name in names for stem in get_args(Stem))


_ANY_SIDE = {"dynamic_img_size": True}  # DINOv2's positions are of 518 pixels, its evaluation is of 224

# Networks to look for, by a tensor that each must have: (the end of its key, its shape). Where several differ only in
# what no shape tells (padding, number of heads), all are listed: the user chooses.
COMMON: Mapping[tuple[str, tuple[int, ...]], tuple[Backbone, ...]] = {
    ("1.conv2.weight", (512, 512, 3, 3)): _resnets("resnet18"),
    ("5.conv2.weight", (256, 256, 3, 3)): _resnets("resnet34", "resnet50"),
    ("22.conv3.weight", (1024, 256, 1, 1)): _resnets("resnet101"),
    ("35.conv3.weight", (1024, 256, 1, 1)): (Backbone("resnet152"),),
    ("5.conv3.weight", (1024, 512, 1, 1)): (Backbone("wide_resnet50_2"),),
    # 12 heads: MoCo v3's vits.py at c349e6e, solo-learn's solo/backbones/vit/vit_mocov3.py at 9187ea3
    ("patch_embed.proj.weight", (192, 3, 16, 16)): (
        Backbone("vit_tiny_patch16_224"),
        Backbone("vit_tiny_patch16_224", {"num_heads": 12}),
    ),
    ("patch_embed.proj.weight", (384, 3, 16, 16)): (
        Backbone("vit_small_patch16_224"),
        Backbone("vit_small_patch16_224", {"num_heads": 12}),
    ),
    ("patch_embed.proj.weight", (384, 3, 8, 8)): (Backbone("vit_small_patch8_224"),),
    ("patch_embed.proj.weight", (768, 3, 16, 16)): (Backbone("vit_base_patch16_224"),),
    ("patch_embed.proj.weight", (768, 3, 8, 8)): (Backbone("vit_base_patch8_224"),),
    ("patch_embed.proj.weight", (1024, 3, 16, 16)): (Backbone("vit_large_patch16_224"),),
    ("patch_embed.proj.weight", (384, 3, 14, 14)): (Backbone("vit_small_patch14_dinov2", _ANY_SIDE),),
    ("patch_embed.proj.weight", (768, 3, 14, 14)): (Backbone("vit_base_patch14_dinov2", _ANY_SIDE),),
    ("patch_embed.proj.weight", (1024, 3, 14, 14)): (Backbone("vit_large_patch14_dinov2", _ANY_SIDE),),
}
