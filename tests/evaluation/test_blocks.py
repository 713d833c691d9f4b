import pytest
import timm
import torch

from evaluation.blocks import Blocks, has_blocks, kinds_of, with_blocks
from evaluation.features import Pixels


def vit(name: str = "vit_tiny_patch16_224", **kwargs):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "embed_dim": 24, "num_heads": 2} | kwargs
    network = timm.create_model(name, num_classes=0, **{"depth": 5, **sizes}).eval()
    for parameter in network.parameters():  # a norm of weight 1 and bias 0 could stand anywhere
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def tokens_after(network, x):
    """Returns each block's output after the last norm, from hooks on the plain forward pass; and its result."""
    seen = []
    hooks = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in network.blocks]
    own = network(x)
    for hook in hooks:
        hook.remove()
    return [network.norm(out) for out in seen], own


@pytest.mark.parametrize(
    ("name", "kwargs", "own_is_class"),
    [
        ("vit_tiny_patch16_224", {}, True),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, False),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, True),
        ("deit_tiny_distilled_patch16_224", {}, False),
        ("beit_base_patch16_224", {}, False),
    ],
    ids=["class", "pooled", "registers", "distilled", "beit"],
)
@torch.no_grad()
def test_kinds_are_the_own_output_and_dinov2s_inputs(name, kwargs, own_is_class):
    network, x = vit(name, **kwargs), torch.randn(3, 3, 32, 32)
    tokens, own = tokens_after(network, x)
    blocks = Blocks(network)
    out, kinds, inputs = blocks(x), blocks.kinds, blocks.inputs
    assert torch.equal(out[:, kinds["last"]], own)
    assert kinds == kinds_of(blocks)
    classes = [block[:, 0] for block in tokens]
    patches = tokens[-1][:, network.num_prefix_tokens :].mean(dim=1)
    expected = {
        "class1": classes[-1:],
        "class1+patches": [classes[-1], patches],
        "class4": classes[-4:],
        "class4+patches": [*classes[-4:], patches],
    }
    assert list(inputs) == list(expected)
    for kind, parts in expected.items():
        torch.testing.assert_close(out[:, inputs[kind]], torch.cat(parts, dim=1), rtol=0, atol=0, msg=kind)
    assert list(kinds) == ["last", *list(expected)[own_is_class:]]  # no two kinds are the same columns
    assert blocks.own_is_class == own_is_class
    assert torch.equal(own, classes[-1]) == own_is_class


@torch.no_grad()
def test_a_shallow_network_gives_what_it_has():
    blocks = Blocks(vit(depth=2))
    assert list(blocks.inputs) == ["class1", "class1+patches", "class2", "class2+patches"]
    assert blocks(torch.randn(1, 3, 32, 32)).shape == (1, 3 * 24)
    assert list(Blocks(vit(depth=1)).kinds) == ["last", "class1+patches"]


def test_what_has_no_class_token_in_its_blocks_is_left_as_it_is():
    names = ("vit_base_patch16_siglip_224", "resnet10t", "xcit_nano_12_p16_224")
    with torch.device("meta"):
        networks = [timm.create_model(name, num_classes=0) for name in names]
    for network in [*networks, Pixels()]:
        assert not has_blocks(network)
        assert with_blocks(network) is network
        assert kinds_of(network) == {"last": slice(None)}
    assert isinstance(with_blocks(vit()), Blocks)
