import math

import pytest
import torch

from evaluation import knn

CPU = torch.device("cpu")


def slow_loop(train, labels, test, num_classes, k, temperature):
    found = []
    for row in test:
        similarity = [float(row @ other / (row.norm() * other.norm())) for other in train]
        votes = [0.0] * num_classes
        for index in sorted(range(len(train)), key=lambda i: -similarity[i])[:k]:
            votes[int(labels[index])] += math.exp(similarity[index] / temperature)
        found.append(votes.index(max(votes)))
    return torch.tensor(found)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 1.0), (90, 0.5)])
def test_equals_the_slow_loop(gaussians, monkeypatch, k, temperature):
    train, labels = gaussians(90, 10, 5, 2.5, seed=1)
    test, _ = gaussians(31, 10, 5, 2.5, seed=2)
    scale = torch.linspace(0.5, 3, 90, dtype=torch.float32)[:, None]  # cosine does not see lengths
    expected = slow_loop((train * scale).double(), labels, test.double(), 5, k, temperature)
    assert len(expected.unique()) > 3  # no constant answer could pass
    for bank, queries in ((knn.BANK, knn.QUERIES), (40, 7), (1, 1)):
        monkeypatch.setattr(knn, "BANK", bank)
        monkeypatch.setattr(knn, "QUERIES", queries)
        assert torch.equal(knn.predict(train * scale, labels, test, 5, k, temperature, CPU), expected)


@pytest.mark.parametrize(("columns", "k"), [(4000, 3), (4000, 200), (97, 2), (97, 6), (97, 7), (97, 97), (5, 1)])
def test_highest_is_topk(columns, k):
    torch.manual_seed(0)
    for x in (torch.randn(40, columns), torch.randint(3, (40, columns)).float()):  # many are equal
        value, place = knn.highest(x, k)
        assert torch.equal(value.sort(dim=1).values, x.topk(k, dim=1).values.flip(1))
        assert torch.equal(x.gather(1, place), value)
        assert all(len(row.unique()) == k for row in place)


def test_the_weights_decide_not_the_count():
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels = torch.tensor([0, 1, 1])
    near = torch.tensor([[1.0, 0.0]])
    # votes exp(1 / T) against 2 exp(0.6 / T): the one near neighbour wins below T = 0.4 / ln 2 = 0.577
    assert knn.predict(train, labels, near, 2, 3, 0.55, CPU).tolist() == [0]
    assert knn.predict(train, labels, near, 2, 3, 0.60, CPU).tolist() == [1]


def test_a_small_temperature_does_not_overflow(gaussians):
    train, labels = gaussians(60, 8, 4, 3.0, seed=1)
    test, _ = gaussians(40, 8, 4, 3.0, seed=2)
    sharp = knn.predict(train, labels, test, 4, 20, 1e-4, CPU)  # exp(1 / 1e-4) is far beyond float64
    assert torch.equal(sharp, knn.predict(train, labels, test, 4, 1, 0.07, CPU))


def test_collapsed_features_give_chance():
    labels = torch.arange(100) % 5
    assert knn.top1(torch.ones(100, 4), labels, torch.ones(50, 4), labels[:50], 5, 20, 0.07, CPU) == pytest.approx(20)


@pytest.mark.parametrize(("k", "temperature", "names"), [(0, 0.07, "k 0"), (11, 0.07, "10"), (5, 0.0, "0.0")])
def test_k_and_temperature_out_of_range_are_refused(k, temperature, names):
    rows, labels = torch.randn(10, 3), torch.zeros(10, dtype=torch.long)
    with pytest.raises(ValueError, match=names):
        knn.predict(rows, labels, rows, 1, k, temperature, CPU)


def test_the_name_tells_k_and_temperature():
    assert knn.metric_name(20, 0.07) == "knn-k20-T0.07"
    assert knn.metric_name(200, 0.1) == "knn-k200-T0.1"
