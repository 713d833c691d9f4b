import math

import pytest
import torch

from diagnostics.pair_stats import HardPair, hardest_pairs, modality_gap, pair_statistics

BY_HAND = torch.tensor(
    [  # descriptions 0 and 2 are equal
        [0.5, 0.1, 0.5],  # right
        [-0.9, 0.2, 0.3],  # wrong
        [0.7, -0.2, 0.6],  # right: 0 is worth as much as 2
    ]
)
GROUP = torch.tensor([4, 9, 4])


def test_statistics_by_hand() -> None:
    found = pair_statistics(BY_HAND, GROUP)
    assert found == pytest.approx(
        {
            "image_to_text_top1": 2 / 3,
            "text_to_image_top1": 3 / 3,  # column 0: image 2, of its group; 1: image 1; 2: image 2
            "diagonal": (0.5 + 0.2 + 0.6) / 3,
            "off_diagonal": (0.1 + 0.9 + 0.3 + 0.2) / 4,
            "off_diagonal_max": 0.9,
        }
    )
    assert all(type(value) is float for value in found.values())


def test_without_equal_descriptions_only_the_diagonal_is_right() -> None:
    found = pair_statistics(BY_HAND, torch.arange(3))
    assert found["image_to_text_top1"] == pytest.approx(1 / 3)  # row 0: the first of two equal values
    assert found["text_to_image_top1"] == pytest.approx(2 / 3)
    assert found["off_diagonal"] == pytest.approx((0.1 + 0.5 + 0.9 + 0.3 + 0.7 + 0.2) / 6)


def test_one_pair_and_one_group_have_nothing_off_the_diagonal() -> None:
    for similarity, group in [(torch.tensor([[0.5]]), [7]), (torch.tensor([[0.5, 0.9], [0.1, 0.5]]), [3, 3])]:
        found = pair_statistics(similarity, torch.tensor(group))
        assert found == {
            "image_to_text_top1": 1.0,
            "text_to_image_top1": 1.0,
            "diagonal": 0.5,
            "off_diagonal": 0.0,
            "off_diagonal_max": 0.0,
        }
        assert hardest_pairs(similarity, torch.tensor(group)) == []


def test_what_is_not_a_number_finds_nothing() -> None:
    similarity = torch.eye(4)
    similarity[0] = torch.nan  # argmax of it is 0, which would be right
    found = pair_statistics(similarity, torch.arange(4))
    assert (found["image_to_text_top1"], found["text_to_image_top1"]) == (0.75, 0.0)
    assert math.isnan(found["diagonal"])
    assert all(pair.image != 0 for pair in hardest_pairs(similarity, torch.arange(4)))


def test_collapsed_embeddings_are_at_chance() -> None:
    found = pair_statistics(torch.ones(10, 10), torch.arange(10))
    assert (found["image_to_text_top1"], found["text_to_image_top1"]) == (0.1, 0.1)


def test_the_hardest_pairs_by_hand() -> None:
    pairs = hardest_pairs(BY_HAND, torch.arange(3), most=3)
    assert [pair[:2] for pair in pairs] == [(2, 0), (0, 2), (1, 2)]
    assert [pair.similarity for pair in pairs] == pytest.approx([0.7, 0.5, 0.3])
    assert [pair.right for pair in pairs] == pytest.approx([0.6, 0.5, 0.2])


def test_equal_descriptions_are_no_hard_pair_and_listed_once() -> None:
    pairs = hardest_pairs(BY_HAND, GROUP)
    assert [pair[:2] for pair in pairs] == [(0, 1), (2, 1), (1, 0)]
    assert pairs[-1] == HardPair(1, 0, pytest.approx(-0.9), pytest.approx(0.2))


def test_of_equal_similarities_the_first_in_reading_order_is_listed_first() -> None:
    pairs = hardest_pairs(torch.zeros(50, 50), torch.arange(50), most=4)
    assert [pair[:2] for pair in pairs] == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_statistics_leave_the_matrix_as_it_was() -> None:
    similarity = BY_HAND.clone().requires_grad_()
    pair_statistics(similarity, GROUP)
    hardest_pairs(similarity, GROUP)
    assert torch.equal(similarity, BY_HAND)


def test_the_gap_is_the_distance_of_the_centroids_on_the_sphere() -> None:
    image = torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # normalised: centroid (1/2, 1/2)
    text = torch.tensor([[-4.0, 0.0], [0.0, 0.1]])  # (-1/2, 1/2)
    assert modality_gap(image, text) == pytest.approx(1)
    assert modality_gap(image, 7 * image) == pytest.approx(0, abs=1e-12)
    assert modality_gap(torch.ones(3, 5), -torch.ones(3, 5)) == pytest.approx(2)
    assert math.isnan(modality_gap(image, text / 0 * 0))
