"""Weights from files and from timm: what is loaded, what is refused, and how that is said."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from pixelcontrast.config import Model
from pixelcontrast.models import build_model, check_model, check_model_weights
from pixelcontrast.models.backbone import build_backbone

NAME = "hrnet_w18_small"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    backbone = build_backbone(NAME)
    for key, value in backbone.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)  # told from a fresh network's
    return backbone.state_dict()


def official(state: dict) -> dict:
    """As the ImageNet checkpoints of HRNet's authors: a classification head, no step counters."""
    head = {
        "incre_modules.0.0.conv1.weight": torch.zeros(32, 18, 1, 1),
        "downsamp_modules.0.0.weight": torch.zeros(256, 128, 3, 3),
        "classifier.bias": torch.zeros(1000),
    }
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")} | head


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


FILES = {
    "plain.safetensors": lambda state: state,
    "plain.pth": lambda state: state,
    "official.pth": official,
    "ddp.pt": lambda state: prefixed(state, "module."),
    "nested.pth": lambda state: {"epoch": 3, "state_dict": prefixed(state, "module.backbone.")},
    "network.safetensors": lambda state: prefixed(state, "backbone.") | {"conv1.weight": torch.zeros(3)},
}


def check_weights_of(backbone: str, path: Path) -> None:
    check_model_weights(Model(backbone=backbone, weights=str(path)), num_classes=3, embedding=True)


def load(backbone: str, path: Path) -> Any:
    """The backbone with the file's weights."""
    model = Model(backbone=backbone, weights=str(path))
    return build_model(model, num_classes=3, embedding=False).backbone


def test_weights_of_another_backbone_are_refused_before_anything_starts(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(state, path)
    check_weights_of(NAME, path)
    with pytest.raises(
        ValueError, match=r"plain\.safetensors: not weights of resnet18: .* missing; the file has"
    ):
        check_weights_of("resnet18", path)
    wider = {key: torch.zeros(3) if key == "conv1.weight" else value for key, value in state.items()}
    safetensors.torch.save_file(wider, path)
    with pytest.raises(
        ValueError, match=r"not weights of hrnet_w18_small: other shapes in conv1\.weight: first"
    ):
        check_weights_of(NAME, path)


@pytest.mark.parametrize("file", FILES)
def test_every_kind_of_file_gives_its_weights(state, tmp_path, file):
    path = tmp_path / file
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(FILES[file](state), path)
    model = Model(backbone=NAME, weights=str(path))
    check_model(model)
    loaded = build_model(model, num_classes=3, embedding=False).backbone.state_dict()
    wrong = [key for key in state if not torch.equal(loaded[key], state[key])]
    assert not wrong


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto", "cspnext_tiny"])
def test_a_file_of_timm_s_own_network_gives_its_features(tmp_path, name):
    """``features_only`` renames the tensors of some families: stages_0.…, model.…"""
    whole: Any = timm.create_model(name).eval()
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "timm.safetensors")
    backbone = load(name, tmp_path / "timm.safetensors").eval()
    backbone.to(memory_format=torch.contiguous_format)  # in which timm's own is, for the same rounding
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        want = whole.forward_intermediates(images, intermediates_only=True)[-4:]
        for level, same in zip(backbone(images), want, strict=True):
            torch.testing.assert_close(level, same)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as error:
        load(NAME, path)
    return str(error.value)


def test_a_missing_tensor_is_named(state, tmp_path):
    path = tmp_path / "cut.pth"
    cut = {key: value for key, value in state.items() if not key.startswith("stage4.0.branches.3")}
    torch.save(cut, path)
    said = refusal(path)
    assert said.startswith(f"{path}: not weights of {NAME}: stage4.0.branches.3.0.conv1.weight, ")
    assert " more missing" in said


def test_another_networks_weights_are_refused_by_shape(state, tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state | {"conv2.weight": torch.zeros(64, 32, 3, 3)}, path)
    said = "other shapes in conv2.weight: first [64, 32, 3, 3], not [64, 64, 3, 3]"
    assert refusal(path) == f"{path}: not weights of {NAME}: {said}"


def test_a_checkpoint_of_another_layout_is_told_by_its_keys(state, tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save({"encoder.weight": torch.zeros(2), "model": state}, path)
    assert "the file has encoder.weight" in refusal(path)
    torch.save([1, 2], path)
    assert f"{path}: holds a list, not a state dict" in refusal(path)


@pytest.mark.parametrize("file", ["damaged.safetensors", "damaged.pth"])
def test_a_damaged_file_is_named(state, tmp_path, file):
    path = tmp_path / file
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{path}: cannot be read as weights: damaged" in refusal(path)


def test_numbers_of_numpy_beside_the_weights_are_no_code(state, tmp_path):
    """Trainers save their best score as NumPy's."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"best_mIoU": np.float64(0.8), "epoch": np.int64(3), "state_dict": state}, path)
    loaded = load(NAME, path).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_a_backbone_s_file_has_no_classifier_to_keep(state, tmp_path):
    path = tmp_path / "backbone.pth"
    torch.save(state, path)
    model = Model(backbone=NAME, weights=str(path), classifier="keep")
    with pytest.raises(ValueError, match=r"model\.classifier is keep, but .*backbone\.pth is not recognised"):
        check_model_weights(model, num_classes=3, embedding=False)


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save_bare_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_bare_pickle])
def test_code_in_a_file_is_refused_and_never_run(state, tmp_path, save):
    path, canary = tmp_path / "trap.pth", tmp_path / "canary"
    save({"state_dict": {**state, "extra": Canary(canary)}}, path)
    assert "could run code" in refusal(path)
    assert not canary.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert canary.exists()  # the trap is a real one


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("nowhere.pth", "there is no file 'nowhere.pth'"),
        ("weights.onnx", "neither none, timm, nor a file (.safetensors, .pth, .pt)"),
        ("Timm", "did you mean timm?"),
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_is_built(weights, says):
    with pytest.raises(ValueError) as error:
        check_model(Model(backbone=NAME, weights=weights))
    assert says in str(error.value)


def test_timm_weights_that_timm_does_not_have_are_refused():
    with pytest.raises(ValueError, match="timm has no pretrained weights of resnet200"):
        check_model(Model(backbone="resnet200", weights="timm"))


OFFLINE = """
import sys, time
import safetensors.torch, torch, timm
from pathlib import Path
from pixelcontrast.config import Model
from pixelcontrast.models import build_model
from pixelcontrast.models.backbone import build_backbone

def build_pretrained():
    model = Model(backbone="hrnet_w18_small", weights="timm")
    return build_model(model, num_classes=3, embedding=False).backbone

start = time.monotonic()
try:
    build_pretrained()
except ValueError as error:
    print(str(error).replace("\\n", "<newline>"))
print(f"{time.monotonic() - start:.1f}")

# The layout of the hub's cache, as a download or a copy of HF_HOME from another machine leaves it.
commit = "0" * 40
repository = timm.models.get_pretrained_cfg("hrnet_w18_small").hf_hub_id
cache = Path(sys.argv[1]) / "hub" / ("models--" + repository.replace("/", "--"))
(cache / "snapshots" / commit).mkdir(parents=True)
(cache / "refs").mkdir()
(cache / "refs" / "main").write_text(commit)
state = build_backbone("hrnet_w18_small").state_dict()
safetensors.torch.save_file(state, cache / "snapshots" / commit / "model.safetensors")
loaded = build_pretrained().state_dict()
print(all(torch.equal(loaded[key], state[key]) for key in state))
"""


def test_timm_weights_out_of_reach_are_said_soon_and_a_cached_copy_needs_no_network(tmp_path):
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*", "HF_HOME": str(tmp_path)}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = kept | nobody | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", OFFLINE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    said, seconds, cached = done.stdout.splitlines()
    assert "timm's pretrained weights of hrnet_w18_small cannot be had" in said
    assert "http://127.0.0.1:9/timm/hrnet_w18_small" in said
    assert "set model.weights to a local file" in said
    assert float(seconds) < 12  # the hub's own retries take 47 s
    assert cached == "True"
