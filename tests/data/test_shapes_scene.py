"""Captions of generated pictures: true to their scenes, varied, and the same in a mirror."""

from __future__ import annotations

from collections import Counter

from data.shapes_scene import COLOURS, SENTENCES, SHAPES, SYNONYMS

FLIP_CHANGES = {"left", "right"}


def words(caption: str) -> list[str]:
    return caption.replace(",", "").split()


def test_captions_name_what_the_scene_holds(images):
    for scene, label in zip(images.scenes, images.labels, strict=True):
        said = words(scene.caption)
        assert [name for name in SHAPES if name in said] == [scene.shape] == [images.classes[label]]
        assert {name for name in COLOURS if name in said} == {scene.fill.colour, scene.ground.colour}
        for word in (scene.size, scene.fill.pattern, scene.ground.pattern):
            assert any(option in said for option in SYNONYMS.get(word, (word,)))
        assert any(option in scene.caption for option in SYNONYMS[scene.place])
        assert not FLIP_CHANGES & set(said)


def test_captions_vary(images):
    assert len(set(images.captions)) > 0.95 * len(images)
    openings = Counter(words(caption)[0] for caption in images.captions)
    assert len(openings) >= 4
    # Which words are used does not depend on the shape: a caption without its noun does not give the label away.
    assert all(template.count("{shape}") == 1 for template in SENTENCES)
