import csv
import json

import pytest

from evaluation import compare

TOP1, KNN, BEST = "linear-cached/top1", "knn-k20-T0.07/top1", "linear-cached/top1-best-head-on-test"


@pytest.fixture
def run(tmp_path):
    """Makes a run folder with one result: run(name, top1, seed, lr) -> its folder."""

    def make(name, top1, seed=0, lr=0.1, eval_file="cached.json", protocol="cached", epochs=None, **changed):
        folder = tmp_path / name
        (folder / "eval").mkdir(parents=True, exist_ok=True)
        described = {
            "objective": {"loss": {"kind": "BarlowTwins", "lambd": 0.01}},
            "optimizer": {"lr": lr},
            "seed": seed,
        }
        record = {"recipe": "tiny", "knobs": {"lr": lr, "seed": seed}, "described": described}
        (folder / "recipe.json").write_text(json.dumps(record))

        def metric(mean, interval):
            return {"mean": mean, "std": 0.1, "n": 3, "values": [mean] * 3, "interval": interval, "num_images": 100}

        metrics = {
            f"linear-{protocol}/top1": metric(top1, [top1 - 2, top1 + 1]),
            f"linear-{protocol}/top1-best-head-on-test": metric(top1 + 1, None),
            KNN: metric(60, [55, 65]),
        }
        rows = [
            {"encoder": "pretrained", "images": "", "metrics": metrics},
            {"encoder": "random init", "images": "", "metrics": {KNN: metric(20, None)}},
        ]
        facts = {"view": {"size": 32}, "num_train": 500, "num_test": 100, "classes": ["cat", "dog"]}
        result = {"protocol": {"id": protocol, "epochs": epochs}, "rows": rows, **facts}
        result |= {"weights": {"file": f"{name}.pth", "sha256": f"{name}{seed}"}, **changed}
        (folder / "eval" / eval_file).write_text(json.dumps(result))
        return folder

    return make


def table(capsys, *argv):
    assert compare.main([str(arg) for arg in argv]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def refused(capsys, *argv):
    assert compare.main([str(arg) for arg in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_seeds_are_one_row_and_settings_another(run, capsys, tmp_path):
    runs = [run("a", 80, seed=0), run("b", 82, seed=1), run("c", 84, seed=2), run("d", 70, lr=0.5)]
    file = tmp_path / "table.csv"
    head, rule, first, second = table(capsys, *runs, "--csv", file)
    assert head == ["run", "n", TOP1, KNN]  # what was chosen on the test split is shown when it is asked for
    assert rule == ["---"] * 4
    assert first == ["tiny (lr 0.1)", "3", "82.00 ± 2.00 [80.00, 83.00]", "60.00 ± 0.00 [55.00, 65.00]"]
    assert second == ["tiny (lr 0.5)", "1", "70.00 [68.00, 71.00]", "60.00 [55.00, 65.00]"]
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert [(line["run"], line["metric"]) for line in lines] == [
        (name, metric) for name in ("tiny (lr 0.1)", "tiny (lr 0.5)") for metric in (TOP1, KNN)
    ]
    found = [float(lines[0][name]) for name in ("n", "mean", "std", "low", "high", "num_test")]
    assert found == [3, 82, 2, 80, 83, 100]
    assert lines[0]["values"] == "80 82 84"
    assert (lines[2]["std"], lines[2]["n"]) == ("", "1")


def test_one_metric_and_another_encoder(run, capsys):
    a, b = run("a", 80), run("b", 90, seed=1)
    assert table(capsys, a, b, "--metric", BEST)[2] == ["tiny", "2", "86.00 ± 7.07"]
    assert table(capsys, a, "--metric", "linear-cached/top1")[0] == ["run", "n", TOP1]
    assert table(capsys, a, "--encoder", "random init")[2] == ["tiny", "1", "20.00"]
    assert "'randm': there are pretrained, random init" in refused(capsys, a, "--encoder", "randm")
    assert "--metric nothing: there are linear-cached/top1, " in refused(capsys, a, "--metric", "nothing")


def test_protocols_are_not_mixed_in_a_column(run, capsys):
    a = run("a", 80)
    b = run("b", 85, seed=1, eval_file="bt-100ep.json", protocol="bt-100ep")
    head, _, row = table(capsys, a, b)
    assert head == ["run", "n", TOP1, KNN, "linear-bt-100ep/top1"]
    assert row[1:3] == ["2", "80.00 [78.00, 81.00] (n 1)"]
    message = refused(capsys, a, b, "--metric", "top1")
    assert "would mix protocols in one column: linear-cached/top1" in message
    assert "linear-bt-100ep/top1" in message
    # The same name with other numbers inside, by another version of this project.
    c = run("c", 80, seed=2, epochs=7)
    message = refused(capsys, a, c)
    assert "linear-cached/top1 of" in message
    assert "protocol.epochs: None there, 7 here" in message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"view": {"size": 64}}, "view.size: 32 there, 64 here"),
        ({"num_test": 50}, "num_test: 100 there, 50 here"),
        ({"classes": ["cat", "cow"]}, "classes[1]: 'dog' there, 'cow' here"),
        ({"classes": ["cat", "cow", "dog"]}, "number of classes: 2 there, 3 here"),
        ({"subset": {"id": "1pct"}}, "subset: None there"),
    ],
)
def test_other_images_or_views_are_refused(run, capsys, changed, words):
    message = refused(capsys, run("a", 80), run("b", 80, seed=1, **changed))
    assert "eval/cached.json" in message
    assert words in message


def test_what_would_count_twice_or_is_no_result_is_refused(run, capsys, tmp_path):
    a = run("a", 80)
    assert "given twice" in refused(capsys, a, a / "eval" / "cached.json")
    copy = run("b", 80, seed=1, weights={"sha256": "a0", "file": "a.pth"})
    assert "hold the same weights" in refused(capsys, a, copy)
    assert "holds no result: python eval_linear.py --run" in refused(capsys, tmp_path)
    other = tmp_path / "other.json"
    other.write_text("[1]")
    assert "no result of eval_linear.py" in refused(capsys, other)
    run("a", 81, eval_file="again.json")
    assert "are of one run and differ in linear-cached/top1" in refused(capsys, a)


def test_a_result_elsewhere_belongs_to_the_run_whose_weights_it_names(run, capsys, tmp_path):
    a = run("a", 80)
    run("b", 82, seed=1, weights={"file": str(tmp_path / "b" / "encoder" / "model.safetensors"), "sha256": "b"})
    elsewhere = tmp_path / "results" / "of" / "b.json"
    elsewhere.parent.mkdir(parents=True)
    (tmp_path / "b" / "eval" / "cached.json").rename(elsewhere)
    assert table(capsys, a, elsewhere)[2][:3] == ["tiny", "2", "81.00 ± 1.41 [79.00, 82.00]"]


def test_results_of_weights_alone_are_named_by_their_file(run, capsys):
    folders = run("a", 80), run("b", 81, seed=1)
    for folder in folders:
        (folder / "recipe.json").unlink()
    rows = table(capsys, *(folder / "eval" / "cached.json" for folder in folders))[2:]
    assert [row[0] for row in rows] == ["a", "b"]
