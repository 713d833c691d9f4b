"""Image sets, and which sample comes at which step. Sets are specifications that `open` on a folder."""

from .images import BadImage, read_image
from .pairs import Pairs, PairSet, open_pairs
from .sets import Cifar10, ImageFolder, ImageSet, Shapes
