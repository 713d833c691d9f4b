"""Tokenizers, and the text tower against open_clip's own."""

from __future__ import annotations

import sys
from typing import Literal

import pytest
import torch

from models import Bpe, Bytes, Projection, TextTransformer

CAPTIONS = ["A  photo of a cat", "two dogs", "“naïve” quotes", "x " * 200, ""]


def test_bytes_are_lower_case_utf8_with_an_end() -> None:
    tokens = Bytes(12).encode(["Cat \n é", "", "abcdefghijklmnop"])
    assert tokens.tolist()[0] == [byte + 1 for byte in "cat é".encode()] + [257] + [0] * 5
    assert tokens.tolist()[1] == [257] + [0] * 11
    assert tokens.tolist()[2] == [byte + 1 for byte in b"abcdefghijk"] + [257]
    assert Bytes(12).vocab_size == 258


def test_byte_pairs_are_those_of_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip.tokenizer")
    assert torch.equal(Bpe(77).encode(CAPTIONS), open_clip.SimpleTokenizer()(CAPTIONS, 77))
    assert torch.equal(Bpe(9).encode(CAPTIONS), open_clip.SimpleTokenizer()(CAPTIONS, 9))
    assert Bpe().vocab_size == open_clip.SimpleTokenizer().vocab_size


def test_a_missing_open_clip_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from models import tokenizers

    monkeypatch.setitem(sys.modules, "open_clip.tokenizer", None)
    tokenizers._open_clip_encode.cache_clear()
    with pytest.raises(ValueError, match=r"pip install open_clip_torch.*--tokenizer bytes"):
        Bpe().encode(["a cat"])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_tower_gives_what_open_clips_does_with_the_same_weights(kind: str) -> None:
    """CLIP's (causal, end token, projection without bias) and SigLIP's (all to all, last position, with bias)."""
    transformer = pytest.importorskip("open_clip.transformer")
    siglip = kind == "siglip"
    torch.manual_seed(0)
    options = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"} if siglip else {}
    theirs = transformer.TextTransformer(77, 49408, width=32, heads=4, layers=3, output_dim=16, **options).double()
    tokenizer = Bpe(77, trim=not siglip)
    spec = TextTransformer(tokenizer, 32, 3, 4, causal=not siglip, pool="last" if siglip else "end")
    ours, width = spec.build()
    ours, head = ours.double(), Projection(16, bias=siglip).build(width).double()
    with torch.no_grad():
        ours.tokens.weight.copy_(theirs.token_embedding.weight)
        ours.positions.copy_(theirs.positional_embedding)
        head.weight.copy_(theirs.text_projection.weight if siglip else theirs.text_projection.T)
        if siglip:
            head.bias.copy_(theirs.text_projection.bias)
    ours.norm.load_state_dict(theirs.ln_final.state_dict())
    for mine, their in zip(ours.blocks, theirs.transformer.resblocks, strict=True):
        for one, other in (("self_attn", "attn"), ("norm1", "ln_1"), ("norm2", "ln_2")):
            getattr(mine, one).load_state_dict(getattr(their, other).state_dict())
        mine.linear1.load_state_dict(their.mlp.c_fc.state_dict())
        mine.linear2.load_state_dict(their.mlp.c_proj.state_dict())
    tokens = tokenizer.encode(CAPTIONS)
    assert torch.allclose(head(ours(tokens)), theirs(tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pool", ["end", "mean"])
def test_what_stands_behind_the_end_token_changes_nothing(pool: Literal["end", "mean"]) -> None:
    torch.manual_seed(0)
    tower, width = TextTransformer(Bytes(64), 16, 2, 4, pool=pool).build()
    tokens = Bytes(64).encode(["a cat", "a longer caption"])
    whole, cut = tower.double()(tokens), tower(tokens[:, :20])
    assert whole.shape == (2, width)
    assert torch.allclose(whole, cut, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(tower(tokens[:, :16])[1], whole[1])  # the end token itself was cut off


def test_without_layers_it_is_a_bag_of_tokens_and_their_places() -> None:
    tower, _ = TextTransformer(Bytes(8), 4, 0, 1, pool="mean").build()
    tokens = Bytes(8).encode(["ab"])
    x = tower.tokens.weight[tokens[0, :3]] + tower.positions[:3]
    assert torch.allclose(tower(tokens)[0], tower.norm(x.mean(dim=0)))


def test_eval_mode_gives_what_training_mode_does() -> None:
    torch.manual_seed(0)
    tower, _ = TextTransformer(Bytes(32), 16, 2, 4).build()
    tokens = Bytes(32).encode(CAPTIONS)
    training = tower(tokens)
    with torch.inference_mode():  # torch takes a fused path there
        assert torch.allclose(tower.eval()(tokens), training, atol=1e-5)


def test_a_tower_that_looks_at_padding_refuses_rows_cut_to_their_batch() -> None:
    for flags in ({"causal": False}, {"pool": "last"}):
        with pytest.raises(ValueError, match="trim=False"):
            TextTransformer(Bytes(32), 16, 1, 2, **flags)
        TextTransformer(Bytes(32, trim=False), 16, 1, 2, **flags)


def test_positions_have_no_weight_decay() -> None:
    from training.optimizers import parameter_groups

    tower, _ = TextTransformer(Bytes(32), 16, 1, 2).build()
    weights, vectors = parameter_groups(tower, 1.0, None, 0.1)
    assert any(parameter is tower.positions for parameter in vectors["params"])
    assert any(parameter is tower.tokens.weight for parameter in weights["params"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bytes(2), "context 2"),
        (lambda: TextTransformer(Bytes(32), 10, 1, 4), "heads divide"),
        (lambda: TextTransformer(Bytes(32), 16, -1, 4), "-1 layers"),
        (lambda: TextTransformer(Bytes(32), 16, 0, 4), "without layers"),
        (lambda: TextTransformer(Bytes(32), 16, 1, 4, pool="max"), "pool 'max'"),
        (lambda: Projection(0), "embedding width 0"),
    ],
)
def test_numbers_that_cannot_be_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
