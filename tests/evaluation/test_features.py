import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from augmentations import Center, normalize, render_center
from data import BadImage, ImageFolder
from evaluation import features
from evaluation.features import Extractor, Pixels, frozen, rounded, unchanged
from parallel import World

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
VIEW = Center(resize=None, size=8)


def extract(encoder, images, batch_size=7, workers=0, view=VIEW):
    found, labels = Extractor({"it": encoder}, view, ALONE, workers, batch_size)(images)
    return found["it"], labels


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (64, 0), (7, 2)])
def test_row_i_is_image_i(colours, encoder, monkeypatch, batch_size, workers):
    monkeypatch.setattr(features, "ROWS", 10)  # blocks that batches do not divide
    images = colours(23, noise=10)
    found, labels = extract(encoder, images, batch_size, workers)
    assert labels.tolist() == images.labels.tolist()
    assert found.dtype == torch.float16
    encoder.eval()
    for i in range(23):
        x = normalize(render_center(images.image(i), VIEW), VIEW.mean, VIEW.std)[None]
        torch.testing.assert_close(found[i].float(), encoder(x)[0].detach(), rtol=2**-11, atol=1e-5)
    assert len(torch.unique(found, dim=0)) == 23


def test_the_encoder_is_left_as_it_was(colours, encoder):
    encoder.train()
    encoder[1].eval()  # somebody froze one BatchNorm: that stays so
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    found, _ = extract(encoder, colours(20, noise=10))
    again, _ = extract(encoder, colours(20, noise=10))
    assert torch.equal(found, again)  # no dropout
    assert not found.requires_grad
    assert [module.training for module in encoder.modules()] == modes
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.enable_grad():  # ordinary tensors: they may be part of a graph
        (found * torch.ones(8, requires_grad=True)).sum().backward()


def test_a_change_of_the_encoder_is_noticed(encoder):
    with unchanged({"it": encoder}):
        encoder.train()
        encoder.eval()
    evaluation = unchanged({"it": encoder})
    evaluation.__enter__()
    encoder.train()(torch.randn(2, 3, 8, 8))  # in the mode in which BatchNorm learns
    with pytest.raises(RuntimeError, match=r"it was changed while it was evaluated: 1\.running_mean"):
        evaluation.__exit__(None, None, None)


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
    found, _ = Extractor({"one": encoder, "pixels": Pixels(2)}, VIEW, ALONE)(images)
    assert calls == list(range(10))
    alone, _ = extract(encoder, images, 64)
    assert torch.equal(found["one"], alone)


def test_pixels_are_block_means(colours):
    images = colours(5, noise=30)
    found, _ = extract(Pixels(4), images)
    assert found.shape == (5, 48)
    x = normalize(render_center(images.image(2), VIEW), VIEW.mean, VIEW.std)
    assert found[2].view(3, 4, 4)[1, 3, 0].item() == pytest.approx(x[1, 6:8, 0:2].mean().item(), rel=2**-11)
    assert extract(Pixels(16), images)[0].shape == (5, 3 * 8 * 8)  # never enlarged


def test_values_beyond_float16_stay_and_the_others_do_not_depend_on_them(colours, monkeypatch):
    x = torch.tensor([[1.0, 1 / 3], [65504.0, -2e5]])
    expected = torch.tensor([[1.0, 0.333251953125], [65504.0, -2e5]])
    assert torch.equal(rounded(x, torch.float16), expected)
    assert torch.equal(rounded(x[:1], torch.float16), expected[:1].half())
    assert rounded(x, torch.float32) is x

    class Loud(nn.Module):
        def forward(self, x):
            return torch.cat([x.mean(dim=(1, 2, 3))[:, None], x.new_tensor([[1e6 if x[0, 0, 0, 0] > 0 else 1 / 3]])], 1)

    images = colours(12, noise=10, num_classes=2)
    images.array[:] = 0
    images.array[7] = 255
    monkeypatch.setattr(features, "ROWS", 5)  # the loud one is in the second of three blocks
    found, _ = extract(Loud(), images, batch_size=1)
    assert found.dtype == torch.float32
    assert found[:, 1].tolist() == [1e6 if i == 7 else 0.333251953125 for i in range(12)]


def test_what_no_probe_can_use_is_refused(colours):
    images = colours(6, noise=10)
    with pytest.raises(ValueError, match=r"a probe needs \(n, features\)"):
        extract(nn.Conv2d(3, 4, 3), images)

    class Broken(nn.Module):
        def forward(self, x):
            x = x.mean(dim=(2, 3))
            x[1] = float("nan")
            return x

    with pytest.raises(ValueError, match=r"not finite, for 1 of 4 images .*\(the first is colours\[1\]\)"):
        extract(Broken(), images, batch_size=4)
    with pytest.raises(BadImage, match=r"colours\[0\]: 12 x 12 .*resize"):
        extract(Pixels(), images, view=Center(resize=None, size=16))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(tmp_path, workers):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(BadImage, match=r"^\S*train/b/1\.png: not an image"):
        extract(Pixels(), ImageFolder().open(tmp_path, "train"), 2, workers)
