"""Objectives: networks plus a loss, with three verbs: embed, terms, after_step."""

from .base import Batch, Objective, Step, Text
from .image_text import ImageText
from .joint import JointEmbedding
