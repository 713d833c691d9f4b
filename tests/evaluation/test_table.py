import numpy as np
import pytest
import torch

from augmentations import Center
from evaluation import table
from evaluation.augmented import Curves
from evaluation.blocks import kinds_of, with_blocks
from evaluation.checks import check_sets
from evaluation.classifier import Classifier, Head
from evaluation.feature_cache import tensors_of
from evaluation.features import Extractor, Pixels
from evaluation.protocols import PROTOCOLS, Augmented, Cached, Neighbours
from evaluation.table import Metric, Row, compare, evaluate, format_table
from parallel import World

ALONE = World(0, 1, torch.device("cpu"))
VIEW = Center(resize=None, size=8)
SHORT = Cached(min_steps=40)


def extractor(encoders):
    return Extractor(encoders, VIEW, ALONE)


class Blind(torch.nn.Module):
    """An encoder that sees nothing."""

    def forward(self, x):
        return torch.ones(len(x), 4)


def test_compare_separates_what_sees_from_what_does_not(colours):
    train_set, test_set = colours(240, 6, seed=1), colours(120, 6, seed=2)
    rows = compare({"good": Pixels(1), "blind": Blind()}, train_set, test_set, VIEW, ALONE, 0, seed=4, num_seeds=2)
    assert [row.encoder for row in rows] == ["good", "blind", "raw pixels"]
    names = ["linear-cached/top1", "linear-cached/top5", "knn-k20-T0.07/top1"]
    assert all(list(row.metrics) == names for row in rows)
    good, blind, _ = rows
    assert good.predicted is not None
    hits = 100 * float((good.predicted == torch.as_tensor(test_set.labels)).double().mean())
    assert hits == pytest.approx(good.metrics[names[0]].values[0])
    assert [good.metrics[name].num_images for name in names] == [120, 120, 120]
    assert [len(good.metrics[name].values) for name in names] == [2, 2, 1]
    assert good.metrics[names[0]].mean > 90
    assert good.metrics[names[2]].mean > 90
    assert blind.metrics[names[0]].mean == pytest.approx(100 / 6)
    assert blind.metrics[names[2]].mean == pytest.approx(100 / 6)


def test_one_class_for_each_neighbour_is_not_promised(colours):
    """A training set smaller than 20: k-NN takes what there is, under a name that says so."""
    rows = compare({}, colours(12, 6), colours(6, 6), VIEW, ALONE, 0, seed=0, num_seeds=1)
    assert "knn-k12-T0.07/top1" in rows[0].metrics


def test_the_test_split_is_not_touched_before_every_choice_is_made(colours, monkeypatch):
    """Images and labels of the test split raise until both encoders' settings are chosen."""
    chosen = []
    original = table.fit
    monkeypatch.setattr(table, "fit", lambda *args: (chosen.append(1), original(*args))[1])

    class Guarded:
        def __init__(self, images):
            self._images, self.classes = images, images.classes

        def __len__(self):
            return len(self._images)

        def image(self, index):
            assert len(chosen) == 2, "a test image was read before the learning rates were chosen"
            return self._images.image(index)

        @property
        def labels(self):
            assert len(chosen) == 2, "the test labels were read before the learning rates were chosen"
            return self._images.labels

        def name(self, index):
            return self._images.name(index)

    guarded = Guarded(colours(30, 6, seed=2))
    with pytest.raises(AssertionError, match="was read before"):
        guarded.image(0)
    encoders = {"a": Pixels(1), "b": Pixels(2)}
    rows = evaluate(extractor(encoders), colours(60, 6, seed=1), guarded, SHORT, [0])
    assert len(chosen) == len(rows) == 2


def test_the_choice_does_not_depend_on_the_test_split(colours):
    train_set = colours(120, 20, seed=1)
    wrong = colours(60, 20, seed=2)
    wrong.labels = (wrong.labels + 1) % 6
    right_rows = evaluate(extractor({"a": Pixels(1)}), train_set, colours(60, 20, seed=2), SHORT, [0])
    wrong_rows = evaluate(extractor({"a": Pixels(1)}), train_set, wrong, SHORT, [0])
    assert right_rows[0].selected == wrong_rows[0].selected
    assert right_rows[0].metrics != wrong_rows[0].metrics


def test_the_papers_protocol_reports_the_last_epoch_and_names_the_best(colours, monkeypatch):
    order = -torch.arange(6.0)  # a head answers class `first`, then 0, 1, 2, ... in order
    heads = tuple(Head(torch.zeros(3, 6), order + 10 * (torch.arange(6) == first)) for first in (0, 4))
    values = tuple([[[10.0 + seed], [60.0]], [[50.0], [90.0]], [[40.0], [80.0]]] for seed in range(2))
    monkeypatch.setattr(table, "fit_augmented", lambda *args: (Classifier(heads), Curves(values)))
    protocol = Augmented("bt", epochs=3, batch_size=8, lrs=(0.3,), weight_decay=0)
    (row,) = evaluate(extractor({"a": Pixels(1)}), colours(30, 6), colours(9, 6), protocol, [0, 4])
    assert row.metrics["linear-bt-3ep/top1"].values == pytest.approx((100 * 2 / 9, 100 / 9))
    assert row.metrics["linear-bt-3ep/top5"].values == pytest.approx((100 * 8 / 9, 100 * 8 / 9))
    assert row.predicted is not None
    assert row.predicted.tolist() == [0] * 9
    assert row.metrics["linear-bt-3ep/top1-best-epoch-on-test"] == Metric((50.0, 50.0))
    assert row.metrics["linear-bt-3ep/top5-best-epoch-on-test"] == Metric((90.0, 90.0))


def test_top5_of_five_classes_says_nothing_and_is_left_out(colours):
    sets = [colours(40, 6, seed, num_classes=5) for seed in (1, 2)]
    (row,) = evaluate(extractor({"a": Pixels(1)}), *sets, SHORT, [0])
    assert list(row.metrics) == ["linear-cached/top1", "linear-cached/top1-best-head-on-test", "knn-k20-T0.07/top1"]


def test_splits_that_do_not_fit_are_refused(colours):
    train_set, test_set = colours(30, 6), colours(30, 6)
    test_set.classes = ("class0", "class1", "class2", "class3", "class4", "dog")
    with pytest.raises(ValueError, match=r"1 only in train \(class5\); 1 only in test \(dog\)"):
        check_sets(train_set, test_set, SHORT, 5, 0.07)
    test_set.classes = train_set.classes[::-1]
    with pytest.raises(ValueError, match="another order"):
        check_sets(train_set, test_set, SHORT, 5, 0.07)
    with pytest.raises(ValueError, match="k 31"):
        check_sets(train_set, train_set, SHORT, 31, 0.07)


def test_a_split_without_images_or_with_labels_outside_the_head_is_refused(colours):
    train_set, test_set = colours(30, 6), colours(30, 6)
    empty = colours(0, 6)
    for sets, where in (((empty, test_set), "train"), ((train_set, empty), "test")):
        with pytest.raises(ValueError, match=f"the {where} split has no images"):
            check_sets(*sets, SHORT, 1, 0.07)
    wrong = colours(30, 6)
    wrong.labels = np.where(np.arange(30) == 7, 6, wrong.labels)
    with pytest.raises(ValueError, match=r"1 labels of the train split are not in 0 \.\. 5, .*: 6 of .* is the first"):
        check_sets(wrong, test_set, SHORT, 1, 0.07)
    with pytest.raises(ValueError, match="1 labels of the test split"):
        evaluate(extractor({"a": Pixels(1)}), train_set, wrong, SHORT, [0], k=1)


def test_one_image_a_class_has_none_to_choose_on(colours):
    """Refused before an image is read; a protocol that chooses nothing takes it."""
    single, test_set = colours(6, 6), colours(12, 6)
    with pytest.raises(ValueError, match=r"each class has one training image, and protocol cached .* bt-100ep"):
        check_sets(single, test_set, SHORT, 1, 0.07)
    check_sets(single, test_set, PROTOCOLS["bt-100ep"], 1, 0.07)


def test_the_table_lines_up():
    rows = [
        Row(
            "pretrained",
            {"linear-cached/top1": Metric((90.0, 92.0), (88.0, 93.5), 400), "knn-k20-T0.07/top1": Metric((80.0,))},
            seconds=1.25,
        ),
        Row("x", {"linear-cached/top1": Metric((9.0, 9.0))}),
    ]
    head, first, second, third, caption = format_table(rows).splitlines()
    assert head.split() == ["pretrained", "x"]
    assert first.split() == ["linear-cached/top1", "91.00", "±", "1.41", "[88.00,", "93.50]", "9.00", "±", "0.00"]
    assert second.split() == ["knn-k20-T0.07/top1", "80.00", "-"]
    assert third.split() == ["seconds", "1.2", "-"]
    assert len(head) == len(first) == len(second) == len(third)
    assert "2 seeds" in caption
    assert "400 test images" in caption
    assert "seconds" not in format_table(rows[1:])


def test_other_images_are_a_block_of_their_own():
    rows = [Row("a", {"m": Metric((1.0,))}, images=images) for images in ("", "birds")]
    assert format_table(rows).splitlines()[:5] == ["      a", "m  1.00", "", "birds     a", "m      1.00"]


def test_a_transformers_probe_reads_any_kind_and_its_neighbours_its_own_output(colours):
    import timm

    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=12, depth=5, num_heads=2, num_classes=0
    )
    sets = colours(120, 20, seed=1), colours(60, 20, seed=2)
    protocol = Cached(min_steps=20, lrs=(1e-2, 1e-1), weight_decays=(0.0,))
    (plain,) = evaluate(extractor({"vit": vit}), *sets, protocol, [0])
    (both,) = evaluate(extractor({"vit": with_blocks(vit)}), *sets, protocol, [0])
    assert plain.selected["kind"] == "last"
    assert both.selected["kind"] in kinds_of(with_blocks(vit))
    assert both.metrics["knn-k20-T0.07/top1"] == plain.metrics["knn-k20-T0.07/top1"]


@pytest.mark.parametrize(
    "protocol",
    [SHORT, Augmented("bt", epochs=1, batch_size=16, lrs=(0.3,)), Neighbours(5, 0.1)],
    ids=lambda protocol: protocol.id,
)
def test_no_bit_of_the_encoder_changes(colours, encoder, protocol):
    """BatchNorm's statistics included, whatever mode it comes in."""
    encoder.train()
    before = tensors_of(encoder)
    assert "1.running_mean" in before
    evaluate(extractor({"it": encoder}), colours(40, 6, seed=1), colours(30, 6, seed=2), protocol, [0], k=5)
    assert tensors_of(encoder) == before


def test_neighbours_alone_train_nothing(colours):
    (row,) = evaluate(
        extractor({"it": Pixels(1)}), colours(60, 6, seed=1), colours(30, 6, seed=2), Neighbours(3, 0.5), [0], 3, 0.5
    )
    assert list(row.metrics) == ["knn-k3-T0.5/top1"]
    assert row.metrics["knn-k3-T0.5/top1"].mean > 90
    assert (row.predicted, row.selected) == (None, {})
