"""Networks: timm backbones by name, text towers with their tokenizers, the papers' projection heads.

A leaf: imports torch and timm only; open_clip where its tokenizer is asked for.
"""

from .backbone import Backbone, recompute_activations, uncounted
from .heads import Mlp, Projection
from .save import export_encoder, export_weights
from .text import TextTransformer
from .tokenizers import Bpe, Bytes
