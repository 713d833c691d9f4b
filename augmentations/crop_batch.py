"""A view's crop, resize and flip of a whole batch that lies on a device, as two batched matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from .view import Drawn, Interpolation, View

CROP = 5
CHUNK = 2**17  # numbers at a time on a CPU: larger intermediate results are slower there


def crop_of(drawn: Drawn) -> list[float]:
    """What `crop_batch` needs of a `Drawn`, as CROP numbers: top, left, height, width in pixels, and flip.

    Raises: ValueError where the view turns its images, which only `crop` and `render` do.
    """
    if drawn.turn is not None:
        raise ValueError("a view with turn > 0 cannot be cut out of a set held on the device: hold the set on the CPU")
    return [drawn.top, drawn.left, drawn.height, drawn.width, drawn.flip]


def crop_batch(images: Tensor, numbers: Tensor, view: View) -> Tensor:
    """`crop` of uint8 images (n, 3, L, L), on their device: uint8 (n, 3, S, S) with S the view's size.

    images: of up to L x L pixels each, in the upper left corner; what lies around them is never looked at.
    numbers: float32 (n, CROP), as `crop_of` gives them for each image's own height and width.

    Source: python-pillow/Pillow src/libImaging/Resample.c @4e5f09f (filters; across first, whole levels in between).
    Its weights have 22 bits, ours are float32: where the sum is within their error of a half, levels differ by one.
    """
    assert images.dtype == torch.uint8, images.dtype
    assert numbers.shape == (len(images), CROP), (images.shape, numbers.shape)
    rows = max(1, CHUNK // images[0].numel()) if images.device.type == "cpu" else len(images)
    parts = zip(images.split(rows), numbers.split(rows), strict=True)
    return torch.cat([_crop(part, row[:, :, None, None], view) for part, row in parts])


def _crop(images: Tensor, numbers: Tensor, view: View) -> Tensor:
    """numbers: (n, CROP, 1, 1)."""
    top, left, height, width, flip = numbers.unbind(1)
    across = _weights(left, width, flip, images.shape[3], view.size, view.interpolation)
    down = _weights(top, height, torch.zeros_like(flip), images.shape[2], view.size, view.interpolation)
    n, channels, lines, _ = images.shape
    x = _product(images.float().reshape(n, channels * lines, -1), across.transpose(1, 2)).view(n, channels, lines, -1)
    return _product(down[:, None], x).to(torch.uint8)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The batched matrix product of levels and weights, in either order, as whole levels 0 .. 255."""
    return (a @ b).add_(0.5).floor_().clamp_(0, 255)


def _weights(
    start: Tensor, length: Tensor, flip: Tensor, pixels: int, size: int, interpolation: Interpolation
) -> Tensor:
    """How much of each of `pixels` pixels is in each of `size` new ones, (n, size, pixels); 0 outside the crop.

    start, length: the crop's, in pixels. flip: 1 where the new pixels are counted from the other end. (n, 1, 1) each.
    """
    new = torch.arange(size, device=start.device, dtype=start.dtype)[:, None]
    new = torch.where(flip > 0, size - 1 - new, new)
    old = torch.arange(pixels, device=start.device, dtype=start.dtype) - start
    scale = length / size
    distance = (old + 0.5 - (new + 0.5) * scale).abs_().div_(scale.clamp(min=1))
    weights = _bicubic(distance) if interpolation == "bicubic" else (1 - distance).clamp_(min=0)
    weights = torch.where((old >= 0) & (old < length), weights, 0)
    return weights.div_(weights.sum(2, keepdim=True))


def _bicubic(x: Tensor) -> Tensor:
    """The cubic with a = -1/2 at distances x >= 0, in pixels."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
