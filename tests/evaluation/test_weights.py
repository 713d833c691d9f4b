import argparse
import hashlib
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evaluation.weights import fill, load, told_backbone
from models import Backbone

SPEC = Backbone("resnet10t", {"channels": (8, 8, 8, 8)})


@pytest.fixture
def trained():
    """Returns a state dict that no fresh network has."""
    torch.manual_seed(1)
    state = SPEC.build()[0].state_dict()
    return {key: value + 1 for key, value in state.items()}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def loads(path, expected, prefix=None):
    encoder, _ = SPEC.build()
    account = load(encoder, path, prefix)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert account.num_loaded == len(expected)
    assert account.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return account


def test_plain_files(tmp_path, trained):
    torch.save(trained, tmp_path / "plain.pth")
    save_file(trained, tmp_path / "plain.safetensors")
    for name in ("plain.pth", "plain.safetensors"):
        account = loads(tmp_path / name, trained)
        assert (account.prefix, account.left_out, account.stored_as) == ("", {}, "float32")


def test_the_table_accounts_for_every_tensor_of_the_file(tmp_path, trained):
    """The optimizer's too: here 90 + 2 + 1 + 1."""
    model = {**prefixed("module.backbone.", trained), "module.projector.0.weight": torch.zeros(4, 8)}
    model |= {"module.projector.1.weight": torch.zeros(4), "module.step": torch.zeros(())}
    optimizer = {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": [{"lr": 0.2, "params": [0]}]}
    torch.save({"epoch": 1000, "model": model, "optimizer": optimizer}, tmp_path / "file.pth")
    first, *rows = str(loads(tmp_path / "file.pth", trained)).splitlines()
    assert first.startswith(f"weights: {tmp_path / 'file.pth'}, sha256 ")
    assert rows == [
        "  tensors  keys",
        "       90  model.module.backbone.*   the encoder, all 90 tensors of it, named as here",
        "        2  model.module.projector.*  left out",
        "        1  model.module.step         left out",
        "        1  optimizer.*               left out",
    ]


def test_a_prefix_may_leave_out_the_dict_around_it(tmp_path, trained):
    objective = {**prefixed("encoder.", trained), "head.0.weight": torch.zeros(4, 8)}
    torch.save({"step": 3, "recipe": {}, "objective": objective, "optimizer": {}, "scaler": {}}, tmp_path / "step.pt")
    for prefix in ("encoder.", "objective.encoder."):
        account = loads(tmp_path / "step.pt", trained, prefix)
        assert (account.prefix, account.left_out) == ("objective.encoder.", {"objective.head.": 1})


@pytest.mark.parametrize("prefix", ["", "module."])
def test_heads_beside_the_backbone_are_left_out_and_named(tmp_path, trained, prefix):
    heads = {f"{prefix}fc.0.weight": torch.zeros(5, 8), f"{prefix}fc.0.bias": torch.zeros(5)}
    torch.save({**prefixed(prefix, trained), **heads, f"{prefix}mask_token": torch.zeros(1)}, tmp_path / "heads.pth")
    assert loads(tmp_path / "heads.pth", trained).left_out == {f"{prefix}fc.": 2, f"{prefix}mask_token": 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_become_float32(tmp_path, trained, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in trained.items()}
    torch.save(state, tmp_path / "half.pth")
    account = loads(tmp_path / "half.pth", {key: value.to(trained[key].dtype) for key, value in state.items()})
    assert account.stored_as == str(dtype).removeprefix("torch.")
    assert f"stored as {account.stored_as}" in str(account)


def test_torchvision_and_timm_name_resnet50_alike():
    """The official resnet50.pth is torchvision's without fc: 318 keys, which must be exactly timm's."""
    from torchvision.models import resnet50

    state = {key: value for key, value in resnet50().state_dict().items() if not key.startswith("fc.")}
    assert len(state) == 318
    encoder, width = Backbone("resnet50").build()
    account = fill(encoder, state, "resnet50.pth")
    assert (account.prefix, account.num_loaded, account.left_out) == ("", 318, {})
    assert width == 2048
    assert torch.equal(encoder.state_dict()["layer3.2.conv2.weight"], state["layer3.2.conv2.weight"])


WRONG = {
    "missing": (lambda s: {k: v for k, v in s.items() if not k.startswith("layer4")}, r"\d+ missing \(layer4\.0\."),
    "unexpected": (lambda s: {**s, "layer9.0.weight": torch.zeros(3)}, r"1 unexpected \(layer9\.0\.weight\)"),
    "another shape": (
        lambda s: {**s, "layer1.0.conv1.weight": torch.zeros(8, 8, 1, 1)},
        r"1 of another shape \(layer1\.0\.conv1\.weight 8x8x1x1 for 8x64x3x3\)",
    ),
    "other names": (lambda s: {f"net/{k}": v for k, v in s.items()}, r"90 missing .*; 90 unexpected"),
    "partly renamed": (lambda s: {("x" if i % 2 else "") + k: v for i, (k, v) in enumerate(s.items())}, "missing"),
}


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
@pytest.mark.parametrize("fault", WRONG)
def test_a_file_that_strict_false_would_swallow_is_refused(tmp_path, trained, fault, prefix):
    """What `load_state_dict(strict=False)` on the matching keys would probe as a partly random network."""
    change, message = WRONG[fault]
    torch.save(prefixed(prefix, change(trained)), tmp_path / "wrong.pth")
    encoder, _ = SPEC.build()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    for given in (None, prefix):
        with pytest.raises(ValueError, match=rf"wrong\.pth does not hold this encoder's 90 tensors .*{message}"):
            load(encoder, tmp_path / "wrong.pth", given)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_weights_of_another_architecture_are_named(tmp_path, trained):
    """What was asked for, what differs first, and whose weights they are."""
    state = prefixed("state_dict.module.backbone.", Backbone("resnet18").build()[0].state_dict())
    with pytest.raises(ValueError, match=r"\d+ missing .*\(conv1\.0\..*It holds those of --backbone resnet18$"):
        fill(Backbone("resnet18d").build()[0], state, "file")
    with pytest.raises(ValueError, match=r"shape \(.*\)$"):
        fill(Backbone("resnet10t", {"channels": (8, 8, 8, 16)}).build()[0], trained, "file")


def test_what_no_shape_tells_is_asked(trained):
    cifar, _ = Backbone("resnet18", stem="cifar").build()
    plain, _ = Backbone("resnet18").build()
    both = "--backbone resnet18 --stem cifar or --backbone resnet18 --stem cifar-pad2"
    with pytest.raises(ValueError, match=both):
        fill(plain, cifar.state_dict(), "file")
    with pytest.raises(ValueError, match=f"fits 2 networks: choose {both}$"):
        told_backbone(cifar.state_dict(), "file")
    with pytest.raises(ValueError, match="name its own by --backbone"):
        told_backbone(trained, "file")
    assert told_backbone(prefixed("net.", plain.state_dict()), "file") == Backbone("resnet18")


def test_two_whole_encoders_are_ambiguous(tmp_path, trained):
    second = {key: value + 1 for key, value in trained.items()}
    torch.save({**prefixed("one.", trained), **prefixed("two.", second)}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"--prefix one\. or two\."):
        load(SPEC.build()[0], tmp_path / "two.pth")
    assert loads(tmp_path / "two.pth", second, prefix="two.").left_out == {"one.": 90}


class _Hostile:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("call", [os.mkdir, shutil.rmtree, eval])
def test_code_in_a_file_is_never_run(tmp_path, trained, monkeypatch, call):
    """Names of the operating system are refused; any other stands for an empty class, so its weights can be read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    argument = {os.mkdir: "made", shutil.rmtree: "kept", eval: "__import__('os').mkdir('made')"}[call]
    torch.save({"model": trained, "extra": _Hostile(call, argument)}, tmp_path / "hostile.pth")
    if call is os.mkdir:
        with pytest.raises(ValueError, match=r"hostile\.pth cannot be read as weights"):
            load(SPEC.build()[0], tmp_path / "hostile.pth")
    else:
        loads(tmp_path / "hostile.pth", trained)
    assert (tmp_path / "kept").exists()
    assert not (tmp_path / "made").exists()


class _Setting:
    """Stands for what a training script keeps beside its weights: here any object with state."""

    def __init__(self):
        self.values = [1, {"lr": 0.1}]


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_beside_the_weights_do_no_harm(tmp_path, trained, legacy):
    """A command line and NumPy numbers, as in a checkpoint of DINO; a configuration, as in one of Lightning."""
    extra = {"args": argparse.Namespace(lr=0.1, crops=(0.4, 1.0))}
    if not legacy:
        extra |= {"optimizer": {"lr": np.float64(0.1)}, "hyper_parameters": _Setting()}
    path = tmp_path / "file.ckpt"
    torch.save({"state_dict": trained, **extra}, path, _use_new_zipfile_serialization=not legacy)
    assert loads(path, trained).left_out == {}


def test_a_pickled_network_is_no_state_dict(tmp_path):
    torch.save(_Setting(), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole pickled network: save its state_dict"):
        load(nn.Linear(2, 2), tmp_path / "whole.pth")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors", "list.pth", "absent.pth", "empty.pth"])
def test_what_holds_no_weights_is_refused(tmp_path, name):
    (tmp_path / "broken.pth").write_bytes(b"\x80 no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=name):
        load(nn.Linear(2, 2), tmp_path / name)
    with pytest.raises(ValueError, match="is a folder: give the file, or --run"):
        load(nn.Linear(2, 2), tmp_path)
