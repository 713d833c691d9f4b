import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from augmentations import Center, normalize, render_center
from data import BadImage, ImageFolder
from evaluation.features import Pixels, extract, extract_each, frozen, pixels

CPU = torch.device("cpu")
VIEW = Center(resize=None, size=8)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (64, 0), (7, 2)])
def test_row_i_is_image_i(colours, encoder, batch_size, workers):
    images = colours(23, noise=10)
    features, labels = extract(encoder, images, VIEW, batch_size, CPU, workers)
    assert labels.tolist() == images.labels.tolist()
    encoder.eval()
    for i in range(23):
        x = normalize(render_center(images.image(i), VIEW), VIEW.mean, VIEW.std)[None]
        torch.testing.assert_close(features[i], encoder(x)[0].detach(), rtol=1e-4, atol=1e-5)
    assert len(torch.unique(features, dim=0)) == 23


def test_the_encoder_is_left_as_it_was(colours, encoder):
    encoder.train()
    encoder[1].eval()  # somebody froze one BatchNorm: that stays so
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    features, _ = extract(encoder, colours(20, noise=10), VIEW, 8, CPU, 0)
    again, _ = extract(encoder, colours(20, noise=10), VIEW, 8, CPU, 0)
    assert torch.equal(features, again)  # no dropout
    assert not features.requires_grad
    assert [module.training for module in encoder.modules()] == modes
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.enable_grad():  # ordinary tensors: they may be part of a graph
        (features * torch.ones(8, requires_grad=True)).sum().backward()


def test_modes_come_back_after_an_error(encoder):
    encoder.train()

    def fails():
        with frozen(encoder):
            assert not any(module.training for module in encoder.modules())
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fails()
    assert all(module.training for module in encoder.modules())


def test_encoders_share_a_pass(colours, encoder):
    images, calls = colours(10, noise=10), []
    original = images.image
    images.image = lambda i: (calls.append(i), original(i))[1]
    features, _ = extract_each({"one": encoder, "pixels": Pixels(2)}, images, VIEW, 4, CPU, 0)
    assert calls == list(range(10))
    alone, _ = extract(encoder, images, VIEW, 4, CPU, 0)
    assert torch.equal(features["one"], alone)


def test_pixels_are_block_means(colours):
    images = colours(5, noise=30)
    features, _ = pixels(images, VIEW, side=4)
    assert features.shape == (5, 48)
    x = normalize(render_center(images.image(2), VIEW), VIEW.mean, VIEW.std)
    assert features[2].view(3, 4, 4)[1, 3, 0].item() == pytest.approx(x[1, 6:8, 0:2].mean().item(), rel=1e-5)
    assert pixels(images, VIEW, side=16)[0].shape == (5, 3 * 8 * 8)  # never enlarged


def test_what_no_probe_can_use_is_refused(colours):
    images = colours(6, noise=10)
    with pytest.raises(ValueError, match=r"features"):
        extract(nn.Conv2d(3, 4, 3), images, VIEW, 4, CPU, 0)

    class Broken(nn.Module):
        def forward(self, x):
            x = x.mean(dim=(2, 3))
            x[1] = float("nan")
            return x

    with pytest.raises(ValueError, match=r"not finite for 2 of 6 images \(first: colours\[1\]\)"):
        extract(Broken(), images, VIEW, 4, CPU, 0)
    with pytest.raises(BadImage, match=r"colours\[0\]: 12 x 12 .*resize"):
        extract(Pixels(), images, Center(resize=None, size=16), 4, CPU, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(tmp_path, workers):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(BadImage, match=r"^\S*train/b/1\.png: not an image"):
        extract(Pixels(), ImageFolder().open(tmp_path, "train"), VIEW, 2, CPU, workers)
