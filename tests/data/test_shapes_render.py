"""Pixels of generated pictures: what a caption says can be seen, in grey too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data import shapes_scene
from data.shapes import ShapesSet
from data.shapes_render import OUTLINES, PATTERN_EDGES, outline
from data.shapes_scene import COLOURS, FILLS, PATTERNS, SHAPES, SIDE


def inside(images: ShapesSet) -> np.ndarray:
    """Pixels well inside each shape, (N, SIDE, SIDE) bool."""
    return outline(images.scenes) < -1


def nearest_colour(mean: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: float(np.square(np.array(COLOURS[name]) - mean).sum()))


def test_all_that_a_scene_may_show_can_be_drawn():
    assert set(OUTLINES) == set(SHAPES)
    assert set(PATTERN_EDGES) == set(FILLS) - {"solid"} == set(PATTERNS) - {"plain"}


def test_the_shape_has_the_colour_its_caption_names(images):
    masks = inside(images)
    for scene, pixels, mask in zip(images.scenes, images.array, masks, strict=True):
        assert nearest_colour(pixels[mask].mean(axis=0)) == scene.fill.colour, scene.caption


def test_the_background_has_the_colour_its_caption_names(images):
    outside = outline(images.scenes) > 7  # past the shadow
    for scene, pixels, mask in zip(images.scenes, images.array, outside, strict=True):
        assert nearest_colour(np.median(pixels[mask], axis=0)) == scene.ground.colour, scene.caption


def test_the_shape_is_where_and_as_large_as_its_caption_says(images):
    heights: dict[str, list[float]] = {"upper": [], "middle": [], "lower": []}
    sideways: dict[str, list[float]] = {"central": [], "side": []}
    radii: dict[str, list[float]] = {"small": [], "medium": [], "large": []}
    for scene, mask in zip(images.scenes, inside(images), strict=True):
        rows, columns = np.nonzero(mask)
        box = np.array([(rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2]) - (SIDE - 1) / 2
        room = SIDE / 2 - scene.radius  # words are relative to where a shape of this size can be
        row, column = scene.place.split()
        heights[row].append(box[0] / room)
        sideways[column].append(abs(box[1]) / room)
        if scene.shape == "circle":  # the others fill different parts of the disk they are drawn in
            radii[scene.size].append(np.sqrt(mask.sum() / np.pi))
    assert max(heights["upper"]) < 0 < min(heights["lower"])
    assert np.median(heights["upper"]) < -0.5 < np.median(heights["middle"]) < 0.5 < np.median(heights["lower"])
    assert np.median(sideways["central"]) < 0.5 < np.median(sideways["side"])
    assert max(radii["small"]) < min(radii["medium"])
    assert max(radii["medium"]) < min(radii["large"])


def test_a_grey_view_shows_the_shape(images):
    grey = images.array @ np.array([0.299, 0.587, 0.114])
    outside = outline(images.scenes) > 7
    for picture, scene, mask, rest in zip(grey, images.scenes, inside(images), outside, strict=True):
        assert abs(np.mean(picture[mask]) - np.median(picture[rest])) > 20, scene.caption


def test_shapes_of_one_kind_agree_and_of_two_kinds_differ():
    """Upright outlines of every kind in one place: no two cover nearly the same pixels."""
    upright = [
        replace(shapes_scene.scene(0, "train", index), x=0.0, y=0.0, radius=20.0, turn=(1.0, 0.0))
        for index in range(10)
    ]
    masks = outline(upright) < 0
    for first in range(10):
        for second in range(first):
            common = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
            assert common < 0.85, (upright[first].shape, upright[second].shape)
