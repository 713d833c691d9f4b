"""eval_linear.py --zero-shot and --retrieval, from the command line to the JSON."""

import json

import pytest

import eval_linear
from augmentations import Center
from data import ImageFolder, Shapes, shapes
from models import export_encoder
from tests.evaluation.image_text_runs import BUILD, COLOURS, VIEW, trained, write_images, write_run
from tests.runs import change_recipes
from training.recipe import describe

FAST = ("--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def names(tmp_path):
    """Returns a file of folders and names, in an order that is not the folders'."""
    file = tmp_path / "names.txt"
    lines = [f"c{number}\t{name}\n" for number, name in enumerate(COLOURS)]
    file.write_text("".join(reversed(lines)))
    return file


def refused(capsys, *argv: object) -> str:
    """Returns the one line on stderr with which the command line is refused."""
    capsys.readouterr()
    assert eval_linear.main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "", "something ran before the refusal"
    assert len(err.splitlines()) == 1
    assert err.startswith("eval_linear.py: ")
    return err


def evaluate(*argv: object) -> int:
    return eval_linear.main([str(word) for word in (*argv, *FAST)])


def values(result: dict) -> dict[str, dict[str, float]]:
    return {row["encoder"]: {key: metric["mean"] for key, metric in row["metrics"].items()} for row in result["rows"]}


def test_zero_shot_and_retrieval_of_a_run(run, images, names, tmp_path, capsys):
    sentences = tmp_path / "templates.txt"
    sentences.write_text("a {} square\n{}\n")
    both = ("--zero-shot", names, "--templates", sentences, "--data", images, "--retrieval", images, "--split", "val")
    assert evaluate("--run", run, *both, "--random-baseline") == 0
    out, _ = capsys.readouterr()
    files = sorted(path.name for path in (run / "eval").iterdir())
    assert files == ["retrieval-val.json", "zero-shot-2templates.json"]  # no probe, and no temporary file is left
    found, zero_shot = (json.loads((run / "eval" / file).read_text()) for file in files)

    top1 = {name: row["zero-shot-2templates/top1"] for name, row in values(zero_shot).items()}
    assert list(top1) == ["pretrained", "random init", "chance"]
    assert top1["pretrained"] == 100
    assert top1["random init"] < 60
    assert top1["chance"] == pytest.approx(100 / 7)
    assert zero_shot["protocol"] == {"id": "zero-shot-2templates"}
    assert zero_shot["class_names"] == list(COLOURS)
    assert zero_shot["templates"] == ["a {} square", "{}"]
    assert (zero_shot["num_images"], zero_shot["data_root"]) == (21, str(images))
    assert zero_shot["view"] == describe(VIEW)

    recall = values(found)
    assert recall["pretrained"]["retrieval/image_to_text/R@1"] == 100
    assert recall["pretrained"]["retrieval/text_to_image/R@1"] == 100
    assert recall["random init"]["retrieval/image_to_text/R@1"] < 60
    assert recall["chance"]["retrieval/text_to_image/R@1"] == pytest.approx(100 / 7)
    assert (found["num_images"], found["num_captions"], found["split"]) == (21, 42, "val")
    assert found["weights"]["sha256"] == zero_shot["weights"]["sha256"]
    for text in (
        "zero-shot-2templates/top1      100.00",
        "retrieval/text_to_image/R@10",
        f"all {len(trained())} tensors",
    ):
        assert text in out, out


def test_one_of_them_to_a_file_and_a_probe_if_it_is_asked(run, images, names, tmp_path):
    assert evaluate("--run", run, "--retrieval", images / "val", "--out", tmp_path / "mine.json") == 0
    assert list(values(json.loads((tmp_path / "mine.json").read_text()))) == ["pretrained", "chance"]
    assert not list((run / "eval").glob("*")) if (run / "eval").exists() else True

    (images / "train").exists() or (images / "train").symlink_to(images / "val")
    export_encoder(BUILD().encoder, BUILD.keywords["encoder"], run / "encoder", {"input_size": (3, 16, 16)})
    probe = ("--protocol", "cached", "--epochs", 2, "--knn-k", 3)
    assert evaluate("--run", run, "--zero-shot", names, "--data", images, *probe) == 0
    files = sorted(path.name for path in (run / "eval").glob("*.json"))
    assert files == ["cached-2ep.json", "zero-shot-1templates.json"]


def test_the_size_of_the_view_can_be_changed(run, images):
    assert evaluate("--run", run, "--retrieval", images, "--size", 14, "--split", "val") == 0
    result = json.loads((run / "eval" / "retrieval-val.json").read_text())
    assert result["view"] == describe(Center(resize=14, size=14, mean=VIEW.mean))


def test_bad_input_is_refused_in_a_line(run, images, names, tmp_path, capsys):
    start = ("--run", run)
    zero_shot = (*start, "--zero-shot", names)
    assert "--templates goes with --zero-shot" in refused(capsys, *start, "--templates", names)
    assert "--split val goes with --retrieval" in refused(capsys, *zero_shot, "--split", "val")
    assert "need --run" in refused(capsys, "--weights", names, "--zero-shot", names)
    assert "--seeds is the probe's" in refused(capsys, *zero_shot, "--seeds", 3)
    out = ("--out", tmp_path / "x.json")
    assert "2 results are asked for" in refused(capsys, *zero_shot, "--retrieval", images, *out)
    assert "2 results are asked for" in refused(capsys, *zero_shot, "--protocol", "cached", *out)
    assert "trained on image-text pairs, which have no classes: give --data" in refused(capsys, *zero_shot)
    data = ("--data", images)
    assert "--zero-shot absent: no such file" in refused(capsys, *start, "--zero-shot", "absent", *data)
    assert "1,000 synsets" in refused(capsys, *start, "--zero-shot", "imagenet", *data)
    assert "has no {}" in refused(capsys, *zero_shot, *data, "--templates", names)
    assert "--retrieval " in refused(capsys, *start, "--retrieval", tmp_path / "absent")
    assert "'test'" in refused(capsys, *start, "--retrieval", images, "--split", "test")
    # The second of two is refused before the first runs.
    assert "'test'" in refused(capsys, *zero_shot, *data, "--retrieval", images, "--split", "test")
    assert not list(run.glob("eval/*.json")), "a refused command wrote a result"


def test_a_run_of_images_only_says_so(run, images, names, capsys):
    record = json.loads((run / "recipe.json").read_text())
    described = record["described"]
    described["objective"] = {"kind": "JointEmbedding", "encoder": described["objective"]["encoder"]}
    described["data"] = describe(ImageFolder())
    (run / "recipe.json").write_text(json.dumps(record))
    err = refused(capsys, "--run", run, "--retrieval", images, "--zero-shot", names, "--data", images)
    assert "trained on images only (recipe colours, JointEmbedding): it has no text tower" in err


def test_another_result_is_not_overwritten(run, images, names, tmp_path, capsys):
    start = ("--run", run, "--data", images, "--zero-shot")
    assert evaluate(*start, names) == 0
    file = run / "eval" / "zero-shot-1templates.json"
    before = file.read_bytes()
    other = tmp_path / "other.txt"
    other.write_text(names.read_text().replace("red", "crimson"))
    assert "class_names[0]: 'red' there, 'crimson' here" in refused(capsys, *start, other)
    (tmp_path / "templates.txt").write_text("my {}\n")
    err = refused(capsys, *start, names, "--templates", tmp_path / "templates.txt")
    assert "templates[0]: 'a photo of a {}.' there, 'my {}' here" in err
    assert file.read_bytes() == before
    assert evaluate(*start, names) == 0  # the same: replaced
    assert evaluate("--run", run, "--retrieval", images / "val") == 0
    assert "pairs: " in refused(capsys, "--run", run, "--retrieval", images)


def test_a_result_that_cannot_be_written_does_not_stop_the_other(run, images, names, capsys, monkeypatch):
    def full(path, content):
        if path.name.startswith("zero-shot"):
            raise OSError(28, "No space left on device")
        path.write_text(json.dumps(content))

    monkeypatch.setattr("evaluation.results.write_json_atomic", full)
    assert evaluate("--run", run, "--data", images, "--zero-shot", names, "--retrieval", images, "--split", "val") == 74
    out, err = capsys.readouterr()
    assert "zero-shot-1templates/top1" in out
    assert "No space left on device" in err
    assert [path.name for path in (run / "eval").iterdir()] == ["retrieval-val.json"]


def test_a_run_of_pretrain_gives_the_numbers_that_it_printed_at_its_end(tmp_path, main, monkeypatch):
    """The demo, shortened; its generated test split is written out, since the command line reads files."""
    run, pictures = tmp_path / "run", tmp_path / "shapes"
    change_recipes(monkeypatch, data=Shapes(num_train=256, num_test=200))
    short = ["--epochs", "4", "--batch-size", "32", "--heatmap-every", "0"]
    assert main(["npairs_demo", "--out", str(run), *short, "--workers", "0", "--device", "cpu"]) == 0
    recipe = json.loads((run / "recipe.json").read_text())["described"]
    shapes.write(pictures, train=1, val=recipe["data"]["num_test"], seed=recipe["data"]["seed"])
    (tmp_path / "names.txt").write_text("\n".join(shapes.ShapesSet.classes))
    (tmp_path / "templates.txt").write_text("\n".join(recipe["prompts"]))
    zero_shot = ("--zero-shot", tmp_path / "names.txt", "--templates", tmp_path / "templates.txt", "--data", pictures)
    printed = values(json.loads((run / "evaluation.json").read_text()))
    found = []
    for weights in ("exported", "checkpoint"):
        assert evaluate("--run", run, *zero_shot, "--retrieval", pictures / "val") == 0
        files = sorted((run / "eval").iterdir())
        rows = [values(json.loads(file.read_text())) for file in files]
        found.append({name: {**rows[1][name], **rows[0][name]} for name in ("pretrained", "chance")})
        if weights == "exported":
            (run / "image_text" / "model.safetensors").unlink()
    assert found[0] == found[1]
    for name, row in found[0].items():
        assert row == pytest.approx(printed[name], abs=0.51)  # an image of the 200 may fall on the other side
    assert found[0]["pretrained"]["retrieval/image_to_text/R@10"] > 7  # chance is 5: other weights would show
