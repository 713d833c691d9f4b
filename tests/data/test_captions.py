"""A caption a row: drawn by the sample's own seed, the same for any workers, ranks and views; equal ones are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from PIL import Image

from augmentations import View
from data.ahead import to_device
from data.batches import StepBatches
from data.captions import encode, trimmed
from data.decode import as_tensor
from data.loader import Loader
from models import Bytes
from objectives import Text

VIEW = View(size=8)
TOKENIZER = Bytes(32)


class Pictures:
    """Forty grey pictures; picture i has i % 4 + 1 captions, and the first of each is "grey"."""

    classes = ("all",)
    labels = np.zeros(40, dtype=np.int64)

    def __len__(self) -> int:
        return 40

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (10, 10), (index, index, index))

    def pixels(self, index: int) -> torch.Tensor:
        return as_tensor(self.image(index))

    def name(self, index: int) -> str:
        return str(index)

    def texts(self, index: int) -> tuple[str, ...]:
        return ("grey", *(f"picture {index}, caption {number}" for number in range(index % 4)))


def batches(rank: int = 0, world: int = 1, views: int = 1, seed: int = 3) -> StepBatches:
    return StepBatches(Pictures(), (VIEW,) * views, seed, 8, rank, world, False, TOKENIZER)


def text_of(step: int, **which: int) -> Text:
    text = batches(**which)[step].batch.text
    assert text is not None
    return text


def padded(tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(tokens, (0, TOKENIZER.context - tokens.shape[1]))


def test_each_row_holds_one_of_its_images_captions() -> None:
    drawn: dict[int, Counter[str]] = {index: Counter() for index in range(40)}
    for step in range(200):  # 40 epochs
        loaded = batches()[step]
        assert loaded.batch.text is not None
        assert torch.equal(padded(loaded.batch.text.tokens), TOKENIZER.encode(loaded.captions))
        for index, caption in zip(loaded.batch.index.tolist(), loaded.captions, strict=True):
            drawn[index][caption] += 1
    for index, counts in drawn.items():
        assert set(counts) <= set(Pictures().texts(index))
    four = [counts for index, counts in drawn.items() if index % 4 == 3]
    share = sum(counts["grey"] for counts in four) / sum(counts.total() for counts in four)
    assert abs(share - 0.25) < 0.1  # 400 draws: 4.6 standard deviations


def test_captions_do_not_depend_on_workers_ranks_or_the_number_of_views() -> None:
    for step, loaded in enumerate(Loader(batches(), 0, 6, 2, torch.device("cpu"))):
        assert loaded.captions == batches()[step].captions
        assert loaded.captions == batches(views=2)[step].captions
        parts = [batches(rank, 4)[step] for rank in range(4)]
        assert [caption for part in parts for caption in part.captions] == loaded.captions
        groups = torch.cat([part.batch.text.group for part in parts])
        assert torch.equal(groups, text_of(step).group)
    assert batches(seed=4)[0].captions != batches()[0].captions


def test_rows_are_of_one_group_where_their_tokens_are_equal_and_only_there() -> None:
    for step in range(10):
        text, captions = text_of(step), batches()[step].captions
        assert "grey" in captions
        for i, one in enumerate(captions):
            for j, other in enumerate(captions):
                assert (text.group[i] == text.group[j]) == (one == other)
    cut = encode(Bytes(4), ["abcd", "abcx", "ab"])  # what is cut off cannot tell captions apart
    assert cut.group[0] == cut.group[1] != cut.group[2]


def test_rows_end_with_the_longest_in_steps_of_eight() -> None:
    assert encode(TOKENIZER, ["ab"]).tokens.shape == (1, 8)
    assert encode(TOKENIZER, ["a", "abcdefgh"]).tokens.shape == (2, 16)
    assert encode(TOKENIZER, ["x" * 100]).tokens.shape == (1, 32)
    assert encode(Bytes(32, trim=False), ["ab"]).tokens.shape == (1, 32)
    assert trimmed(torch.zeros(2, 4, dtype=torch.int64)).shape == (2, 4)
    assert encode(TOKENIZER, ["ab"]).group == encode(TOKENIZER, ["ab", "x" * 20]).group[0]


def test_captions_reach_the_device() -> None:
    raw = batches()[0]
    batch = to_device(raw, (VIEW,), torch.device("cpu"), channels_last=False)
    assert batch.text is not None
    assert torch.equal(batch.text.tokens, text_of(0).tokens)
    assert torch.equal(batch.text.group, text_of(0).group)
