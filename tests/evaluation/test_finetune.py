import json
from copy import deepcopy
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import eval_linear
from augmentations import Center
from evaluation.augmented import train_view
from evaluation.features import Extractor
from evaluation.finetune import Network
from evaluation.finetune_rates import RATES, Finetuned, finetuned
from evaluation.flags import Method
from evaluation.protocols import Augmented
from evaluation.resumable import Course, learn
from parallel import World
from tests.evaluation.conftest import colour_set, small_encoder
from tests.ranks import run_ranks
from training import checkpoint, stop

CPU = torch.device("cpu")
VIEW = Center(resize=None, size=12)
FAST = ["--workers", "0", "--device", "cpu"]
QUICK = Finetuned(Augmented("quick", epochs=2, batch_size=5, lrs=(0.5,)), lr_encoder=0.05)


def network(encoder: nn.Module, protocol: Finetuned = QUICK, num_steps: int = 4, world: World | None = None) -> Network:
    extractor = Extractor({}, VIEW, world or World(0, 1, CPU))
    return Network(encoder, 8, protocol, num_steps, extractor, colour_set(14, 5.0), seed=3)


def images(step: int, num: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(num, 3, 12, 12, generator=generator), torch.randint(6, (num,), generator=generator)


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_those_of_the_papers_codes(nesterov):
    """SGD on a network in training mode, a learning rate each for encoder and head that fall together each epoch."""
    encoder = small_encoder(dropout=0)
    protocol = Finetuned(Augmented("quick", epochs=2, batch_size=5, lrs=(0.5,), nesterov=nesterov), lr_encoder=0.05)
    ours = network(encoder, protocol)
    theirs = deepcopy(ours.model).train()
    groups = [
        {"params": theirs[1].parameters(), "lr": protocol.head.lrs[0]},
        {"params": theirs[0].parameters(), "lr": protocol.lr_encoder},
    ]
    optimizer = torch.optim.SGD(groups, 0, momentum=0.9, weight_decay=0, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    for step in range(4):
        x, y = images(step)
        optimizer.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        optimizer.step()
        if step % 2 == 1:
            schedule.step()
        ours.step([x[:2], x[2:]], y, len(x), step)
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[key], tensor, msg=key)


def test_the_encoder_is_copied_and_stays_as_it_is():
    encoder = small_encoder().eval()
    before = deepcopy(encoder.state_dict())
    learner = network(encoder)
    learner.step([images(0)[0]], images(0)[1], 5, 0)
    assert all(torch.equal(before[key], tensor) for key, tensor in encoder.state_dict().items())
    assert not encoder.training
    moved = learner.model[0].state_dict()
    assert not torch.equal(before["0.weight"], moved["0.weight"])
    assert not torch.equal(before["1.running_mean"], moved["1.running_mean"])


def test_a_saved_network_goes_on_to_the_bit_with_dropout_too(tmp_path):
    def step(learner: Network, number: int) -> None:
        x, y = images(number)
        learner.step([x], y, len(x), number)

    whole, first = network(small_encoder()), network(small_encoder())
    for number in range(4):
        step(whole, number)
    for number in range(2):
        step(first, number)
    state = checkpoint.load(checkpoint.save(tmp_path, 2, {"learner": first.state_dict()}, keep=1))
    again = network(nn.Sequential(*[deepcopy(layer) for layer in small_encoder(seed=9)]))
    again.load_state_dict(state["learner"])
    torch.manual_seed(77)
    for number in (2, 3):
        step(again, number)
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], tensor), key


def trained(world: World) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    """Fine-tunes on 6 images, in batches of 5 and 1: of the second one rank has none. Returns weights and curve."""
    learner = network(small_encoder(dropout=0), world=world)
    course = Course(np.arange(6), QUICK.head.batch_size, 4, QUICK.head.epochs, whole_batches=False, seed=0)
    view = train_view(VIEW, QUICK.head)
    curve = learn(learner, course, colour_set(6, 5.0), view, world, workers=0, limit=64, what="ours")
    return learner.model.state_dict(), curve


def test_ranks_share_each_batch_even_where_it_does_not_divide():
    state, curve = trained(World(0, 1, CPU))
    for of_rank, curve_of_rank in run_ranks(trained, 2):
        assert curve_of_rank == curve
        for key, tensor in state.items():
            torch.testing.assert_close(of_rank[key], tensor, rtol=1e-4, atol=1e-5, msg=key)


def test_the_command_fine_tunes_a_copy_and_names_what_was_done(run):
    file = run / "encoder" / "model.safetensors"
    weights = file.read_bytes()
    argv = ["--run", str(run), *FAST, "--subset", "10%", "--finetune", "bt", "--epochs", "2", "--random-baseline"]
    assert eval_linear.main(argv) == 0
    assert file.read_bytes() == weights
    assert [path.name for path in (run / "eval").iterdir()] == ["finetune-bt-2ep-10pct-balanced.json"]
    result = json.loads((run / "eval" / "finetune-bt-2ep-10pct-balanced.json").read_text())
    assert [row["encoder"] for row in result["rows"]] == ["pretrained", "random init"]
    metrics = result["rows"][0]["metrics"]
    name = "finetune-bt-2ep-10pct-balanced"
    assert list(metrics) == [
        f"{name}/{of}" for of in ("top1", "top5", "top1-best-epoch-on-test", "top5-best-epoch-on-test")
    ]
    assert metrics[f"{name}/top1"]["interval"] is not None
    assert metrics[f"{name}/top1-best-epoch-on-test"]["mean"] >= metrics[f"{name}/top1"]["mean"]
    assert (result["protocol"]["lr_encoder"], result["protocol"]["head"]["lrs"]) == (0.005, [0.5])
    assert (result["num_train"], result["subset"]["id"]) == (7, "10pct-balanced")


@pytest.mark.parametrize(
    ("asked_at", "said"), [(4, "stopped by SIGTERM at step 2, saved"), (3, "stopped by a signal at step 2, saved")]
)
def test_stopped_fine_tuning_goes_on_by_the_same_command(asked_at, said, run, capsys, monkeypatch):
    """Before the third step, or while test images are counted after the second."""
    argv = ["--run", str(run), *FAST, "--subset", "10%", "--finetune", "bt", "--epochs", "3"]
    assert eval_linear.main([*argv, "--out", str(run / "whole.json")]) == 0
    asked = iter(range(1000))
    monkeypatch.setattr(stop, "pending", lambda: "SIGTERM" if next(asked) == asked_at else None)
    capsys.readouterr()
    assert eval_linear.main(argv) == stop.STOPPED_EXIT
    assert said in capsys.readouterr().err
    monkeypatch.undo()
    steps = []
    monkeypatch.setattr(Network, "step", lambda *rest, step=Network.step: (steps.append(rest[-1]), step(*rest)))
    assert eval_linear.main(argv) == 0
    assert steps == [2]
    (file,) = (run / "eval").iterdir()  # and no state
    assert json.loads(file.read_text())["rows"] == json.loads((run / "whole.json").read_text())["rows"]


def test_rates_are_the_papers():
    assert finetuned("bt", 1, "1pct-simclr").id == "finetune-bt-20ep-1pct-simclr"
    assert finetuned("bt", 10, "10pct-balanced", epochs=5).id == "finetune-bt-5ep-10pct-balanced"
    rates = {
        (paper, percent): (found.lr_encoder, *found.head.lrs, found.head.epochs, found.head.weight_decay)
        for paper, of_paper in RATES.items()
        for percent, found in of_paper.items()
    }
    assert rates == {
        ("bt", 1): (0.005, 0.5, 20, 0),
        ("bt", 10): (0.005, 0.5, 20, 0),
        ("vicreg", 1): (0.03, 0.08, 20, 0),
        ("vicreg", 10): (0.01, 0.1, 20, 0),
        ("simclr", 1): (0.8, 0.8, 60, 0),
        ("simclr", 10): (0.8, 0.8, 30, 0),
    }
    offered, _ = get_args(get_type_hints(Method)["finetune"])
    assert get_args(offered) == tuple(RATES)


def test_what_fine_tuning_cannot_do_is_refused_in_a_line(run, tmp_path, capsys):
    def refused(*argv: str) -> str:
        assert eval_linear.main(["--run", str(run), *FAST, "--finetune", "vicreg", *argv]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        return err

    assert "published rates are for --subset 1% and 10%, none for all training images" in refused()
    (tmp_path / "list.txt").write_text("\n".join(f"c{label}/0.png" for label in range(7)))
    assert "none for the images of list-" in refused("--subset-file", str(tmp_path / "list.txt"))
    assert "--finetune and --protocol are two" in refused("--subset", "1%", "--protocol", "cached")
    assert "--knn-k is the probe's, not --finetune's" in refused("--subset", "1%", "--knn-k", "3")
    assert "--real is the probe's, not --finetune's" in refused("--subset", "1%", "--real")
    assert not (run / "eval").exists() or not list((run / "eval").iterdir())
