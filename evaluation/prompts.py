"""Class names and the sentences they go into, from text files or, for ImageNet, from open_clip_torch's wheel."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGENET = "imagenet"
PROMPT = "a photo of a {}."  # arXiv 2103.00020, section 3.1.4: what CLIP's authors start from
SYNSET = re.compile(r"n\d{8}")
SHOWN = 5  # names in a message


def class_names(source: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the name of each class, as a sentence should call it.

    Args:
        source: "imagenet", open_clip's names of the 1,000 classes in the order of their synsets; or a text file of one
            name a line in the order of the class folders; or of a folder, a tab and its name on each line, in any order
            and with other folders too.
        classes: names of the class folders, in order.

    Raises:
        ValueError: not a file, or not exactly one name for each class; two classes of one name.
    """
    if source == IMAGENET:
        synsets = [name for name in classes if SYNSET.fullmatch(name)]
        if len(classes) != 1000 or len(synsets) != 1000:
            raise ValueError(
                f"--zero-shot imagenet names the 1,000 synsets of ImageNet-1k in their order, and these are "
                f"{len(classes)} classes ({_some(classes)}): give a file with a line <folder><tab><name> for each"
            )
        return tuple(_open_clip().IMAGENET_CLASSNAMES)
    file = Path(source)
    lines = _lines(file, f"--zero-shot {source}", f"{IMAGENET}, or a text file with a class name a line")
    if any("\t" in line for line in lines):
        names = _by_folder(file, lines, classes)
    elif len(lines) != len(classes):
        raise ValueError(
            f"{file} holds {len(lines)} names for {len(classes)} classes ({_some(classes)}): give one a line in the "
            "order of the class folders, or <folder><tab><name>"
        )
    else:
        names = tuple(lines)
    twice = _twice(names)
    if twice:
        folders = [folder for folder, name in zip(classes, names, strict=True) if name == twice]
        raise ValueError(f"{file} calls {' and '.join(folders)} {twice!r}: no sentence could tell them apart")
    return names


def templates(file: Path | None, names: str) -> tuple[str, ...]:
    """Returns the sentences, each with "{}" where the class's name goes.

    Args:
        file: text, one a line; None: CLIP's 80 for ImageNet, and "a photo of a {}." for other classes.
        names: where the class names came from: "imagenet" or a file.

    Raises:
        ValueError: not a file, an empty one, a line without {}, or the same line twice.
    """
    if file is None:
        return tuple(make("{}") for make in _open_clip().OPENAI_IMAGENET_TEMPLATES) if names == IMAGENET else (PROMPT,)
    lines = _lines(file, f"--templates {file}", "a text file with a sentence a line, such as 'a photo of a {}.'")
    for number, line in enumerate(lines, start=1):
        if "{}" not in line:
            raise ValueError(f"{file}, line {number}: {line!r} has no {{}} where the class's name should go")
    twice = _twice(lines)
    if twice:
        raise ValueError(f"{file} holds {twice!r} twice, which would weigh it double: keep one")
    return lines


def _lines(file: Path, flag: str, wanted: str) -> tuple[str, ...]:
    if not file.is_file():
        raise ValueError(f"{flag}: no such file; it should be {wanted}")
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{flag} cannot be read as UTF-8 text: {error}") from None
    stripped = tuple(line.strip() for line in lines)
    if stripped == ("",):
        raise ValueError(f"{flag} is empty; it should be {wanted}")
    if "" in stripped:
        raise ValueError(f"{flag}: line {stripped.index('') + 1} is empty; it should be {wanted}")
    return stripped


def _by_folder(file: Path, lines: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        folder, _, name = (part.strip() for part in line.partition("\t"))
        if not folder or not name or line.count("\t") > 1:
            raise ValueError(f"{file}, line {number}: {line!r} should be <folder><tab><name>, as other lines are")
        if folder in found:
            raise ValueError(f"{file}, line {number}: folder {folder} is named twice")
        found[folder] = name
    missing = [name for name in classes if name not in found]
    if missing:
        raise ValueError(f"{file} names {len(missing)} of {len(classes)} class folders not at all: {_some(missing)}")
    return tuple(found[name] for name in classes)


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _open_clip() -> Any:
    try:
        from open_clip import zero_shot_metadata
    except ImportError as error:
        raise ValueError(
            f"the names and sentences of ImageNet come with open_clip_torch, which cannot be imported ({error}): "
            "pip install open_clip_torch, or give files"
        ) from None
    return zero_shot_metadata


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
