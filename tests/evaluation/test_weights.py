import hashlib
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evaluation.weights import fill, load
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
        assert (account.container, account.prefix, account.left_out) == ("", "", {})
        assert str(account).endswith("no prefix; left out: nothing")


def test_the_official_checkpoint(tmp_path, trained):
    """Layout of facebookresearch/barlowtwins main.py at 8e8d284: the DDP model with backbone, projector and bn."""
    model = {
        **prefixed("module.backbone.", trained),
        "module.projector.0.weight": torch.zeros(4, 8),
        "module.projector.1.weight": torch.zeros(4),
        "module.bn.running_mean": torch.zeros(4),
    }
    optimizer = {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": [{"lr": 0.2, "params": [0]}]}
    torch.save({"epoch": 1000, "model": model, "optimizer": optimizer}, tmp_path / "checkpoint.pth")
    account = loads(tmp_path / "checkpoint.pth", trained)
    assert (account.container, account.prefix) == ("model", "module.backbone.")
    assert account.left_out == {"module.projector.": 2, "module.bn.": 1}
    assert "module.projector.* (2), module.bn.* (1)" in str(account)


def test_our_checkpoint(tmp_path, trained):
    objective = {**prefixed("encoder.", trained), "head.0.weight": torch.zeros(4, 8)}
    torch.save({"step": 3, "recipe": {}, "objective": objective, "optimizer": {}, "scaler": {}}, tmp_path / "step.pt")
    account = loads(tmp_path / "step.pt", trained, prefix="encoder.")
    assert account.left_out == {"head.": 1}


def test_a_classifier_is_left_out_and_named(tmp_path, trained):
    torch.save({**trained, "fc.weight": torch.zeros(5, 8), "fc.bias": torch.zeros(5)}, tmp_path / "with_fc.pth")
    assert loads(tmp_path / "with_fc.pth", trained).left_out == {"fc.": 2}


def test_torchvision_and_timm_name_resnet50_alike():
    """The official resnet50.pth is torchvision's without fc: 318 keys, which must be exactly timm's."""
    from torchvision.models import resnet50

    state = {key: value for key, value in resnet50().state_dict().items() if not key.startswith("fc.")}
    assert len(state) == 318
    encoder, width = Backbone("resnet50").build()
    assert fill(encoder, state, "resnet50.pth") == ("", {})
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


def test_another_stem_gets_a_hint(trained):
    cifar, _ = Backbone("resnet18", stem="cifar").build()
    plain, _ = Backbone("resnet18").build()
    with pytest.raises(ValueError, match="--stem cifar"):
        fill(plain, cifar.state_dict(), "file")
    with pytest.raises(ValueError, match="--stem imagenet"):
        fill(cifar, plain.state_dict(), "file")


def test_two_whole_encoders_are_ambiguous(tmp_path, trained):
    teacher = {key: value + 1 for key, value in trained.items()}
    torch.save({**prefixed("student.", trained), **prefixed("teacher.", teacher)}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"--prefix student\. or teacher\."):
        load(SPEC.build()[0], tmp_path / "two.pth")
    account = loads(tmp_path / "two.pth", teacher, prefix="teacher.")
    assert account.left_out == {"student.": 90}


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_a_file_is_never_run(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": trained, "extra": _Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile\.pth cannot be read as weights"):
        load(SPEC.build()[0], tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors", "list.pth", "absent.pth", "empty.pth"])
def test_what_holds_no_weights_is_refused(tmp_path, name):
    (tmp_path / "broken.pth").write_bytes(b"\x80 no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=name):
        load(nn.Linear(2, 2), tmp_path / name)
