"""The views of the papers, by name, each with its source. A recipe takes one, or writes its own `View(...)`.

Everything here is executed as the sources' PyTorch code does. Where the source is other code, the difference is said.
Another size is `dataclasses.replace(view, size=...)`; sigma stays in pixels of the result and is not scaled with it.
"""

from .view import Center, View

# Barlow Twins, arXiv 2103.03230; facebookresearch/barlowtwins main.py @8e8d284, class Transform. VICReg's
# augmentations.py @4e12602 (arXiv 2105.04906) has the same two lists.
BARLOW_TWINS = (View(blur=1.0), View(blur=0.1, solarize=0.2))
VICREG = BARLOW_TWINS

# SimCLR, arXiv 2002.05709; google-research/simclr data_util.py @244e712, color_jitter strength 1.0. That is TensorFlow
# code; as in solo-learn's symmetric.yaml @9187ea3 it is carried over to PIL's operations, which differs in this: the
# resize is antialiased, contrast turns about one grey mean (not one per channel), the blur is Pillow's approximation
# of the Gaussian (not a kernel cut off at a tenth of the side; sigma is the same), and the pixels are standardised.
SIMCLR = (View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5),) * 2

# MoCo v3, arXiv 2104.02057; facebookresearch/moco-v3 main_moco.py @c349e6e (crops bilinear, torchvision's default) and
# CONFIG.md (crop-min 0.2 for ResNet-50, default 0.08 for ViT). It flips last, which gives the same pixels.
MOCO_V3_RN50 = (
    View(scale=(0.2, 1.0), interpolation="bilinear", blur=1.0),
    View(scale=(0.2, 1.0), interpolation="bilinear", blur=0.1, solarize=0.2),
)
MOCO_V3_VIT = (View(interpolation="bilinear", blur=1.0), View(interpolation="bilinear", blur=0.1, solarize=0.2))

# CLIP, arXiv 2103.00020 section 2.4 (a random square crop is the only augmentation); the numbers of mlfoundations/
# open_clip @89fb801, transform.py (image_transform, AugmentationCfg) and constants.py. SigLIP's models there have mean
# and std 0.5 (timm's configuration of vit_base_patch16_siglip_224).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP = View(scale=(0.9, 1.0), flip=0.0, jitter=0.0, gray=0.0, mean=CLIP_MEAN, std=CLIP_STD)
CLIP_EVAL = Center(resize=224, size=224, interpolation="bicubic", mean=CLIP_MEAN, std=CLIP_STD)
HALF = (0.5, 0.5, 0.5)
SIGLIP = View(scale=(0.9, 1.0), flip=0.0, jitter=0.0, gray=0.0, mean=HALF, std=HALF)
SIGLIP_EVAL = Center(resize=224, size=224, interpolation="bicubic", mean=HALF, std=HALF)

# CIFAR: vturrisi/solo-learn @9187ea3, scripts/pretrain/cifar/{barlow,simclr,vicreg}.yaml and augmentations/
# {asymmetric,symmetric}.yaml; bicubic crop, flip last, mean and std from solo/data/pretrain_dataloader.py.
# Its blur is Pillow's GaussianBlur, sigma 0.1 to 2.0, at 32 pixels as at 224.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR_BARLOW_TWINS = (
    View(size=32, mean=CIFAR10_MEAN, std=CIFAR10_STD),
    View(size=32, solarize=0.2, mean=CIFAR10_MEAN, std=CIFAR10_STD),
)
CIFAR_SIMCLR = (
    View(size=32, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5, mean=CIFAR10_MEAN, std=CIFAR10_STD),
) * 2
CIFAR_VICREG = (View(size=32, scale=(0.2, 1.0), solarize=0.1, mean=CIFAR10_MEAN, std=CIFAR10_STD),) * 2

# Linear probe on ImageNet: facebookresearch/barlowtwins evaluate.py @8e8d284 (torchvision's default is bilinear).
PROBE_TRAIN = View(interpolation="bilinear", jitter=0.0, gray=0.0)
PROBE_EVAL = Center()

# Linear probe on CIFAR: solo-learn @9187ea3 solo/data/classification_dataloader.py. Its std there is rounded to three
# digits; ours is the pretraining's.
CIFAR_PROBE_TRAIN = View(size=32, interpolation="bilinear", jitter=0.0, gray=0.0, mean=CIFAR10_MEAN, std=CIFAR10_STD)
CIFAR_PROBE_EVAL = Center(resize=None, size=32, mean=CIFAR10_MEAN, std=CIFAR10_STD)
