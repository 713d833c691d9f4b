"""Networks: timm backbones by name, the papers' projection heads. A leaf: imports torch and timm only."""

from .backbone import Backbone, recompute_activations
from .export import export_encoder
from .heads import Mlp
