import textwrap
from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from evaluation import retrieval
from evaluation.retrieval import TIE, chance, hits, recall

# Three images on the axes; captions 0, 1 of image 0, caption 2 of image 1, captions 3, 4 of image 2. Cosines:
#            caption 0     1     2     3     4
#   image 0      .89*  .10*  .00   .98   .00      * a caption of that image
#   image 1      .45   .995  .51*  .20   .10
#   image 2      .00   .00   .86   .10*  .995*
IMAGES = torch.eye(3)
OWNER = torch.tensor([0, 0, 1, 2, 2])
CAPTIONS = torch.tensor([[1.0, 0.5, 0.0], [0.1, 1.0, 0.0], [0.0, 0.6, 1.0], [1.0, 0.2, 0.1], [0.0, 0.1, 1.0]])


def random(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_a_case_by_hand():
    """Image 2 finds its own caption first, the others second; captions 0 and 4 their image first, 3 last."""
    found = recall(IMAGES, CAPTIONS, OWNER, ranks=(1, 2))
    assert found == pytest.approx(
        {
            "retrieval/image_to_text/R@1": 100 / 3,
            "retrieval/image_to_text/R@2": 100,
            "retrieval/text_to_image/R@1": 40,
            "retrieval/text_to_image/R@2": 80,
        }
    )


def test_equal_captions_are_right_for_each_other_and_else_the_rule_is_cocos():
    """Captions 0 and 3 say the same: caption 3's nearest image is image 0, whose caption 0 has these words."""
    texts = ["a red disc", "red", "a square", "a red disc", "green"]
    plain = recall(IMAGES, CAPTIONS, OWNER, ["a", "b", "c", "d", "e"], ranks=(1, 2))
    assert plain == recall(IMAGES, CAPTIONS, OWNER, ranks=(1, 2))
    found = recall(IMAGES, CAPTIONS, OWNER, texts, ranks=(1, 2))
    assert found == pytest.approx(
        {
            "retrieval/image_to_text/R@1": 200 / 3,  # image 0 finds caption 3 first: the words of its caption 0
            "retrieval/image_to_text/R@2": 100,
            "retrieval/text_to_image/R@1": 60,  # caption 3 finds image 0 first
            "retrieval/text_to_image/R@2": 100,
        }
    )
    numbers = torch.tensor([70, 3, -4, 70, 9])
    assert recall(IMAGES, CAPTIONS, OWNER, numbers, ranks=(1, 2)) == found
    # An equal caption of the same image changes nothing.
    same = ["x", "x", "c", "d", "d"]
    assert recall(IMAGES, CAPTIONS, OWNER, same, ranks=(1, 2)) == plain


@pytest.mark.parametrize("seed", range(5))
def test_hits_equal_their_slow_loop(seed):
    """Similarities of few levels, so that most rows tie."""
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(4, (20, 6), generator=generator).double() / 4
    right = torch.rand(20, 6, generator=generator) < 0.4
    right[:, seed] = True
    ranks = (1, 2, 3, 5)
    text = (hits.__doc__ or "").partition("Equals this slow loop::\n")[2]
    result = torch.zeros(20, len(ranks), dtype=torch.float64)
    names = {"n": 20, "C": 6, "similarity": similarity, "right": right, "ranks": ranks, "result": result}
    exec(textwrap.dedent(text), names | {"TIE": TIE, "permutations": permutations})
    assert ((result > 0) & (result < 1)).any()
    torch.testing.assert_close(hits(similarity, right, ranks), result)


@pytest.mark.parametrize("groups", [None, [str(n % 7) for n in range(60)]])
def test_embeddings_that_collapsed_score_what_guessing_scores(groups):
    owner = torch.arange(60) % 20
    images, captions = torch.full((20, 8), 0.3), random(1, 8).expand(60, 8)
    found, guessed = recall(images, captions, owner, groups), chance(owner, 20, groups)
    assert found == pytest.approx(guessed)
    if groups is None:
        assert guessed["retrieval/text_to_image/R@5"] == pytest.approx(25)
        # none of 3 right captions among 5 of 60
        missed = 57 * 56 * 55 * 54 * 53 / (60 * 59 * 58 * 57 * 56)
        assert guessed["retrieval/image_to_text/R@5"] == pytest.approx(100 * (1 - missed))
    else:
        assert guessed["retrieval/image_to_text/R@1"] > 15


def test_chance_is_what_random_embeddings_reach():
    owner, groups = torch.arange(40) // 2, [str(n % 13) for n in range(40)]
    guessed = chance(owner, 20, groups)
    runs = [recall(random(20, 4, seed=s), random(40, 4, seed=1000 + s), owner, groups) for s in range(300)]
    for name, value in guessed.items():
        assert sum(run[name] for run in runs) / 300 == pytest.approx(value, abs=1.5), name


def test_blocks_change_nothing(monkeypatch):
    owner, groups = torch.arange(50) % 17, [str(n % 19) for n in range(50)]
    images, captions = random(17, 6), random(50, 6, seed=1)
    whole = recall(images, captions, owner, groups), chance(owner, 17, groups)
    seen = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: seen.append((len(a), b.shape[1])) or matmul(a, b))
    monkeypatch.setattr(retrieval, "CHUNK", 100)
    assert (recall(images, captions, owner, groups), chance(owner, 17, groups)) == whole
    assert max(rows * columns for rows, columns in seen) <= 100


def test_the_rank_formula_of_the_plain_case():
    """One caption an image, no ties: the place of the diagonal in the sorted row."""
    images, captions = random(30, 5), random(30, 5) + random(30, 5, seed=1)
    similarity = F.normalize(images) @ F.normalize(captions).T
    found = recall(images, captions, torch.arange(30))
    for way, rows in (("image_to_text", similarity), ("text_to_image", similarity.T)):
        place = (rows > rows.diagonal()[:, None]).sum(dim=1)
        for k in (1, 5, 10):
            assert found[f"retrieval/{way}/R@{k}"] == pytest.approx(100 * (place < k).double().mean().item())


def test_the_scale_of_a_feature_and_the_order_of_captions_change_nothing():
    owner = torch.arange(24) % 12
    images, captions = random(12, 5), random(24, 5, seed=1)
    found = recall(images, captions, owner)
    scaled = images * torch.arange(1, 13)[:, None]
    assert recall(scaled, captions * 7, owner) == pytest.approx(found)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    assert recall(images, captions[order], owner[order]) == pytest.approx(found)


def test_a_rank_that_everything_reaches_is_left_out():
    owner = torch.arange(12) % 5
    found = recall(random(5, 4), random(12, 4), owner)
    ways = {way: [name for name in found if way in name] for way in retrieval.WAYS}
    assert [len(names) for names in ways.values()] == [3, 1]  # 12 captions, 5 images
    assert list(chance(owner, 5)) == list(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": torch.tensor([0, 0, 1, 1, 1])}, r"1 of 3 images have no caption \(the first is 2\)"),
        ({"owner": torch.tensor([0, 0, 1, 2, 3])}, "caption 4 belongs to image 3: there are 3"),
        ({"owner": torch.tensor([0, 1, 2])}, r"owner \(3,\)"),
        ({"groups": ["a", "b"]}, r"groups \(2,\)"),
        ({"captions": CAPTIONS[:, :2]}, r"caption features \(5, 2\)"),
        ({"images": IMAGES / 0}, "image features are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        recall(**{"images": IMAGES, "captions": CAPTIONS, "owner": OWNER, **change})
