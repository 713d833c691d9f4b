import sys

import pytest

from evaluation.prompts import PROMPT, class_names, templates

CLASSES = ("n01", "n02", "n03")


@pytest.fixture
def file(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "names.txt"
        path.write_text(text, encoding=encoding)
        return path

    return write


def test_a_name_a_line_in_the_order_of_the_folders(file):
    assert class_names(str(file("goldfish\nblack stork\r\n  café \n\n")), CLASSES) == (
        "goldfish",
        "black stork",
        "café",
    )
    assert class_names(str(file("a\nb\nc", "utf-8-sig")), CLASSES) == ("a", "b", "c")


def test_names_by_folder_come_in_any_order_with_others(file):
    names = "n03\twalking stick\nn09\tgoldfish\nn01\tgoldfish\nn02\tblack stork\n"
    assert class_names(str(file(names)), CLASSES) == ("goldfish", "black stork", "walking stick")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", r"holds 2 names for 3 classes \(n01, n02, n03\)"),
        ("a\nb\nc\nd\n", "holds 4 names for 3"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a\n\nb\nc\n", "line 2 is empty"),
        ("a\nb\na\n", "calls n01 and n03 'a'"),
        ("n01\ta\nn02\tb\n", "names 1 of 3 class folders not at all: n03"),
        ("n01\ta\nn02\tb\nc\n", "line 3: 'c' should be <folder><tab><name>"),
        ("n01\ta\tb\nn02\tb\nn03\tc\n", "line 1: "),
        ("n01\ta\nn02\tb\nn01\tc\n", "line 3: folder n01 is named twice"),
        ("n01\ta\nn02\tb\nn03\ta\n", "calls n01 and n03 'a'"),
    ],
)
def test_names_that_do_not_fit_are_refused(file, text, message):
    with pytest.raises(ValueError, match=message):
        class_names(str(file(text)), CLASSES)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--zero-shot .*absent: no such file; it should be imagenet, or"):
        class_names(str(tmp_path / "absent"), CLASSES)
    with pytest.raises(ValueError, match=r"--templates .*no such file"):
        templates(tmp_path, "names.txt")
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        class_names(str(tmp_path / "latin"), CLASSES)


def test_templates_hold_the_place_of_the_name(file):
    assert templates(file("a {}.\nthe {}, a {}\n"), "names.txt") == ("a {}.", "the {}, a {}")
    assert templates(None, "names.txt") == (PROMPT,)
    with pytest.raises(ValueError, match=r"line 2: 'a photo' has no \{\}"):
        templates(file("a {}.\na photo\n"), "imagenet")
    with pytest.raises(ValueError, match=r"'a {}.' twice"):
        templates(file("a {}.\nthe {}\na {}.\n"), "imagenet")
    with pytest.raises(ValueError, match="is empty"):
        templates(file(""), "imagenet")


def test_imagenet_is_taken_only_for_its_thousand_synsets():
    pytest.importorskip("open_clip")
    synsets = tuple(f"n{number:08d}" for number in range(1000))
    names = class_names("imagenet", synsets)
    assert (len(names), names[0], names[999]) == (1000, "tench", "toilet paper")
    for classes in (synsets[:10], tuple(str(number) for number in range(1000)), (*synsets, "n99999999")):
        with pytest.raises(
            ValueError, match=r"1,000 synsets .* classes .* give a file with a line <folder><tab><name>"
        ):
            class_names("imagenet", classes)


def test_imagenets_eighty_sentences():
    pytest.importorskip("open_clip")
    sentences = templates(None, "imagenet")
    assert len(set(sentences)) == 80
    assert all(sentence.count("{}") == 1 for sentence in sentences)
    assert sentences[0] == "a bad photo of a {}."


def test_without_open_clip_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for call in (
        lambda: templates(None, "imagenet"),
        lambda: class_names("imagenet", [f"n{n:08d}" for n in range(1000)]),
    ):
        with pytest.raises(ValueError, match="pip install open_clip_torch, or give files"):
            call()
