import torch

from evaluation.classifier import Classifier, Head


def test_logits_and_top_are_what_a_loop_gives():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, generator=generator)
    heads = []
    for columns in (slice(0, 4), slice(2, 6)):
        weight, bias = torch.randn(4, 9, generator=generator), torch.randn(9, generator=generator)
        heads.append(Head(weight, bias, columns, mean=torch.arange(4.0), scale=torch.arange(1.0, 5.0)))
    classifier = Classifier(tuple(heads))
    logits = classifier.logits(x)
    assert logits.shape == (2, 7, 9)
    for s, head in enumerate(heads):
        for m, row in enumerate(x[:, head.columns]):
            terms = [(row[d] - d) * (d + 1) * head.weight[d] for d in range(4)]
            torch.testing.assert_close(logits[s, m], torch.stack(terms).sum(dim=0) + head.bias)
    assert torch.equal(classifier.top(x, k=3), logits.argsort(dim=2, descending=True)[..., :3])
    assert classifier.top(x, k=20).shape == (2, 7, 9)


def test_only_the_classes_that_a_set_has_may_be_answered():
    classifier = Classifier((Head(torch.eye(5), torch.zeros(5)),))
    x = torch.tensor([[0.0, 9, 3, 5, 1]], dtype=torch.float16)
    assert classifier.top(x).tolist() == [[[1, 3, 2, 4, 0]]]
    assert classifier.top(x, classes=torch.tensor([4, 0, 2])).tolist() == [[[2, 4, 0]]]


def test_parts_of_the_images_change_nothing(monkeypatch):
    classifier = Classifier((Head(torch.randn(8, 6), torch.zeros(6)),))
    x = torch.randn(50, 8)
    whole = classifier.top(x)
    monkeypatch.setattr("evaluation.classifier.CHUNK", 60)
    assert torch.equal(classifier.top(x), whole)
