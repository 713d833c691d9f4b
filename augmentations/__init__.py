"""One random view as numbers (`View`, `Drawn`), its random numbers (`sample_random`) and its execution.

`render` executes it by Pillow, one image after another; `crop` and `finish` do the same in two parts, faster: the crop
of each image on the CPU, the rest of a whole batch on any device.

A leaf: imports nothing of this repository but itself, relatively, so the folder works wherever it is copied to.
"""

from .crop import crop
from .crop_batch import CROP, crop_batch, crop_of
from .finish import finish
from .papers import (
    BARLOW_TWINS,
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR_BARLOW_TWINS,
    CIFAR_PROBE_EVAL,
    CIFAR_PROBE_TRAIN,
    CIFAR_SIMCLR,
    CIFAR_VICREG,
    CLIP,
    CLIP_EVAL,
    MOCO_V3_RN50,
    MOCO_V3_VIT,
    PROBE_EVAL,
    PROBE_TRAIN,
    SIGLIP,
    SIGLIP_EVAL,
    SIMCLR,
    VICREG,
)
from .pil import normalize, render, render_center
from .random import mix, mix_each, sample_random
from .rest import REST, Rest, rest_of
from .view import IMAGENET_MEAN, IMAGENET_STD, Center, Drawn, View
