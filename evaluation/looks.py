"""What is shown of encoders beside their accuracies: statistics of their features, and two pictures of the first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from timm.data import ImageNetInfo
from torch import Tensor

from augmentations import BARLOW_TWINS, Center, View, render_center
from data import ImageSet
from diagnostics.confusion import counts
from diagnostics.confusion_png import confusion_png
from diagnostics.feature_stats import feature_statistics, view_statistics
from diagnostics.neighbours import nearest, queries
from diagnostics.neighbours_png import Neighbour, Query, neighbours_png

from .blocks import LAST, kinds_of
from .features import Extractor
from .subset import Subset
from .table import Row, aligned

QUERIES, NEIGHBOURS = 6, 8  # of each kind; of each


@dataclass
class Looks:
    """Looks at each encoder while it is evaluated: give `seen` to `table.evaluate`.

    statistics: of each encoder's features, by name; what `seen` and `see_views` have found so far.
    """

    extractor: Extractor
    train_set: ImageSet
    test_set: ImageSet
    statistics: dict[str, dict[str, float]] = field(default_factory=dict)
    first: tuple[Row, Tensor, list[tuple[str, list[int], Tensor, Tensor]]] | None = None

    def seen(self, row: Row, confidence: Tensor | None, train: Tensor, test: Tensor) -> None:
        """Takes the encoder's row, its probe's confidence (M,) if it has one, and its output, (N, D) and (M, D)."""
        found = self.statistics.setdefault(row.encoder, {})
        found |= feature_statistics(train, self.extractor.device)
        if self.first is None and row.predicted is not None and confidence is not None:
            labels = torch.as_tensor(self.test_set.labels)
            groups = zip(
                ("Random test images", "The most confident errors"),
                queries(labels, row.predicted, confidence, QUERIES),
                strict=True,
            )
            device = self.extractor.device
            found_of = [(name, rows, *nearest(train, test[rows], NEIGHBOURS, device)) for name, rows in groups]
            self.first = row, confidence, found_of

    def see_views(self, num_images: int, num_views: int, view: View) -> None:
        """Finds LiDAR and alignment from random views of some training images; ranks share the work.

        Args:
            num_images: taken at random, the same for every encoder.
            num_views: of each.

        Raises:
            BadImage: an image cannot be read.
        """
        order = torch.randperm(len(self.train_set), generator=torch.Generator().manual_seed(0))
        rows = order[:num_images].sort().values.repeat_interleave(num_views)
        features, _ = replace(self.extractor, view=view)(Subset(self.train_set, rows.numpy()))  # a view each place
        if not self.extractor.world.is_main:
            return
        for name, encoder in self.extractor.encoders.items():
            z = features[name][:, kinds_of(encoder)[LAST]].to(self.extractor.device)
            self.statistics.setdefault(name, {}).update(view_statistics(z.unflatten(0, (-1, num_views))))

    def draw(self, folder: Path, protocol: str) -> dict[str, Path]:
        """Draws confusions and nearest neighbours of the first encoder; returns the files by name.

        Raises:
            OSError: a file cannot be written.
        """
        assert self.first is not None
        row, confidence, groups = self.first
        predicted = row.predicted
        assert predicted is not None
        labels, names = torch.as_tensor(self.test_set.labels), readable(self.test_set.classes)
        right = 100 * (predicted == labels).double().mean()
        about = f"linear-{protocol}, first seed · top-1 {right:.2f} % of {len(labels):,} test images"
        files = {name: folder / f"{name}.png" for name in ("confusion", "neighbours")}
        matrix = counts(labels, predicted, len(names))
        title = [f"confusion · {row.encoder}", f"{about} · {len(names):,} classes"]
        confusion_png(matrix, files["confusion"], title, names)

        train_labels = self.train_set.labels
        drawn = []
        for heading, rows, index, cosine in groups:
            shown = []
            for k, test_row in enumerate(rows):
                label = int(labels[test_row])
                found = [
                    Neighbour(self._pixels(self.train_set, i), names[train_labels[i]], c, train_labels[i] == label)
                    for i, c in zip(index[k].tolist(), cosine[k].tolist(), strict=True)
                ]
                taken_for = int(predicted[test_row])
                pixels = self._pixels(self.test_set, test_row)
                about_it = names[label], names[taken_for], float(confidence[test_row]), taken_for == label
                shown.append(Query(pixels, *about_it, found))
            drawn.append((heading, shown))
        among = f"neighbours by cosine similarity among {len(train_labels):,} training images"
        neighbours_png(drawn, files["neighbours"], [f"nearest neighbours · {row.encoder}", f"{about} · {among}"])
        return files

    def _pixels(self, images: ImageSet, index: int) -> Tensor:
        """Returns what the encoder sees of an image, uint8 (3, S, S)."""
        assert isinstance(self.extractor.view, Center)
        return render_center(images.image(index), self.extractor.view)


def random_view(of_run: Sequence[View], view: Center) -> View:
    """Returns the random view that LiDAR looks through: the run's first, else Barlow Twins', at the size of `view`."""
    return replace((of_run or BARLOW_TWINS)[0], size=view.size, mean=view.mean, std=view.std)


def readable(classes: Sequence[str]) -> list[str]:
    """Returns the classes' names, of ImageNet's synsets their first words: "n01443537" is "goldfish"."""
    if not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return list(classes)
    info = ImageNetInfo("imagenet-22k")
    known = set(info.label_names())
    words = [info.label_name_to_description(name).split(",")[0] if name in known else name for name in classes]
    times = Counter(words)  # "crane" is a bird and a machine
    return [f"{word} ({name})" if times[word] > 1 else word for word, name in zip(words, classes, strict=True)]


def format_statistics(statistics: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a line a statistic, a column an encoder, "-" where one has none."""
    names = list(dict.fromkeys(name for found in statistics.values() for name in found))
    cells = [["features, without labels", *statistics]]
    for name in names:
        values = (found.get(name) for found in statistics.values())
        cells.append([name, *("-" if value is None else f"{value:.4g}" for value in values)])
    return aligned(cells)
