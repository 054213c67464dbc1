"""What of a published file is refused, left aside or replaced, and how that is said."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelcontrast import Data, Experiment, Optim, Run, training
from pixelcontrast.config import Model
from pixelcontrast.models import build_model, check_model, check_model_weights
from published_files import (
    BGR,
    CAFFE,
    SOURCES,
    assert_same,
    build,
    file_of,
    normalised,
    of_reference,
    official,
    picture,
    published,
    save,
)
from published_sources import CLASSES


def refusal(name: str, content: object, folder: Path, **changes: object) -> str:
    """What is said before anything starts; the network is not built."""
    settings: dict[str, Any] = {**SOURCES[name].settings, "classifier": "keep", **changes}
    model = Model(**settings, weights=save(content, folder))
    with pytest.raises(ValueError) as error:
        check_model_weights(model, num_classes=CLASSES, embedding=False)
    return str(error.value)


def state_of(name: str) -> dict[str, Tensor]:
    return dict(published(name).state)


def test_a_network_with_more_layers_is_refused_with_what_would_be_left_over(tmp_path: Path) -> None:
    """DeepLabV3+ has all that DeepLabV3 has."""
    state = state_of("mmsegmentation DeepLabV3") | {"decode_head.c1_bottleneck.conv.weight": torch.zeros(1)}
    said = refusal("mmsegmentation DeepLabV3", state, tmp_path)
    assert "decode_head.c1_bottleneck.conv.weight would be left over: it is another network" in said


def test_a_file_that_lacks_a_tensor_is_refused_with_its_name(tmp_path: Path) -> None:
    state = state_of("official OCR")
    del state["cls_head.bias"], state["backbone.stage4.0.fuse_layers.0.1.0.weight"]
    said = refusal("official OCR", official(state), tmp_path)
    assert "decoder.classifier.bias" in said
    assert "backbone.stage4.0.fuse_layers.0.1.0.weight" in said
    assert "missing" in said


def test_a_file_of_another_backbone_is_refused_with_those_it_may_have(tmp_path: Path) -> None:
    said = refusal("mmsegmentation HRNet", state_of("mmsegmentation HRNet"), tmp_path, backbone="hrnet_w18")
    assert "does not fit hrnet_w18" in said
    assert said.endswith("model.backbone must be the file's own (hrnet_w48, or another HRNet)")


@pytest.mark.parametrize(
    ("name", "classes"),
    [("mmsegmentation HRNet", "road, car, sky, tree, sign"), ("official OCR", "which it does not name")],
)
def test_whether_the_classes_are_the_data_s_is_asked_with_the_names_that_the_file_has(
    name: str, classes: str, tmp_path: Path
) -> None:
    said = refusal(name, SOURCES[name].file(state_of(name)), tmp_path, classifier=None)
    (line,) = [line for line in said.splitlines() if "--model.classifier" in line]
    assert f"keep if the file's 5 classes ({classes}) are the data's in the same order, else new" in line


REFERENCE = "reference HRNet"


def test_a_reference_checkpoint_must_say_how_its_images_were_normalised(tmp_path: Path) -> None:
    said = refusal(REFERENCE, state_of(REFERENCE), tmp_path)
    assert "is a HRNet of the method's reference, but it has no config_dict" in said
    assert "give the checkpoint as the trainer wrote it" in said
    other = of_reference(BGR | {"data": {"input_mode": "HSV"}})(state_of(REFERENCE))
    assert "data.input_mode is 'HSV', neither BGR nor RGB" in refusal(REFERENCE, other, tmp_path)


@torch.inference_mode()
def test_a_reference_network_of_rgb_images_keeps_its_channels(tmp_path: Path) -> None:
    rgb = of_reference(BGR | {"data": {"input_mode": "RGB"}})(state_of(REFERENCE))
    usual = {"mean": None, "std": None}
    settings = {**SOURCES[REFERENCE].settings, **usual, "classifier": "keep", "weights": save(rgb, tmp_path)}
    model, images = build(settings), picture((64, 96))
    turned = model(normalised(images.flip(1), model)).logits
    assert_same(turned, published(REFERENCE).logits)


@pytest.mark.parametrize(
    "network",
    [
        {"backbone": "deepbase_resnet101_dilated16", "multi_grid": None},
        {"backbone": "deepbase_resnet101_dilated8", "multi_grid": [1, 2, 4]},
    ],
)
def test_a_deeplabv3_with_other_dilations_is_refused(network: dict[str, Any], tmp_path: Path) -> None:
    name = "reference DeepLabV3"
    said = refusal(name, of_reference(CAFFE | {"network": network})(state_of(name)), tmp_path)
    assert f"network.backbone is '{network['backbone']}'" in said
    assert "stride 8 without multi-grid" in said


@torch.inference_mode()
def test_scales_of_inplace_abn_become_those_of_batchnorm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Branch master, on PyTorch 0.4: no step counters, and BatchNorm scales by |weight|."""
    name = "official HRNet, branch pytorch-v1.1"
    state = {key: value for key, value in state_of(name).items() if not key.endswith("num_batches_tracked")}
    scales = [key.replace("running_mean", "weight") for key in state if key.endswith("running_mean")]
    state |= {key: -state[key] for key in scales}
    model = build(
        {**SOURCES[name].settings, "classifier": "keep", "weights": save(official(state), tmp_path)}
    )
    images = picture(SOURCES[name].size)
    got, want = model(normalised(images, model)).logits, published(name).logits
    assert_same(got, want, tolerance=5e-3)  # |weight| + 1e-5, in every layer
    assert "its scales are read as InPlaceABN's, of branch master" in caplog.text


WITHOUT_CLASSIFIER = {
    "official OCR": (official, ("cls_head.", "aux_head.3.")),
    "mmsegmentation DeepLabV3": (dict, ("decode_head.conv_seg.", "auxiliary_head.conv_seg.")),
}


@pytest.mark.parametrize("name", WITHOUT_CLASSIFIER)
def test_a_file_without_its_classifier_gets_a_new_one_when_asked(
    name: str, tmp_path: Path, caplog: Any
) -> None:
    whole, classifier = WITHOUT_CLASSIFIER[name]
    content = whole({key: value for key, value in state_of(name).items() if not key.startswith(classifier)})
    for choice in ("keep", None):
        said = refusal(name, content, tmp_path, classifier=choice)
        assert said.splitlines()[1:] == ["  --model.classifier new: the file has no classifier"]
    build({**SOURCES[name].settings, "classifier": "new", "weights": save(content, tmp_path)})
    assert f"it has no classifier: a new one of {CLASSES} classes is trained" in caplog.text


@pytest.mark.parametrize(
    ("changes", "settings", "says"),
    [
        ({}, {}, "its projection head is left aside: it has BatchNorm, and model.embedding_batchnorm is not"),
        ({"proj_head.proj.1.weight": torch.ones(240)}, {}, "its projection head has InPlaceABN and is left"),
    ],
)
def test_a_head_that_ours_cannot_be_is_left_aside_and_told(
    changes: dict[str, Tensor], settings: dict[str, Any], says: str, tmp_path: Path, caplog: Any
) -> None:
    state = state_of(REFERENCE) | changes
    if changes:
        state = {key: value for key, value in state.items() if not key.startswith("proj_head.proj.1.0.")}
    weights = save(of_reference(BGR)(state), tmp_path)
    changed = {**SOURCES[REFERENCE].settings, **settings, "classifier": "keep", "weights": weights}
    build(changed, embedding=True)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{weights}: {says}")


def test_a_torchvision_file_without_auxiliary_head_gets_a_new_one(tmp_path: Path, caplog: Any) -> None:
    name = "torchvision DeepLabV3"
    state = {key: value for key, value in state_of(name).items() if not key.startswith("aux_classifier")}
    model = build({**SOURCES[name].settings, "classifier": "keep", "weights": save(state, tmp_path)})
    assert model.decoder.classifier.weight.equal(state["classifier.4.weight"])
    assert "it has no auxiliary head: a new one is trained" in caplog.text


def test_a_file_with_mmengine_s_objects_is_told_from_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmsegmentation 1.x saves its loggers beside the weights."""
    module: Any = types.ModuleType("mmengine")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": "mmengine"})
    monkeypatch.setitem(sys.modules, "mmengine", module)
    name = "mmsegmentation HRNet"
    content = {"message_hub": module.HistoryBuffer(), "state_dict": state_of(name)}
    said = refusal(name, content, tmp_path)
    assert "it holds mmengine's objects, as the files of mmsegmentation 1.x do" in said
    assert "save the state dict alone" in said


@pytest.mark.parametrize(
    ("operators", "backbone", "decoder"),
    [
        ("hrnet", "resnet101", "deeplabv3"),
        ("torchvision", "hrnet_w48", "ocr"),
        ("mmsegmentation", "resnet101c", "ocr"),
    ],
)
def test_operators_that_a_source_does_not_have_are_refused(
    operators: Any, backbone: str, decoder: Any
) -> None:
    with pytest.raises(ValueError, match=f"{operators}'s are not known for model.decoder {decoder}"):
        check_model(Model(backbone=backbone, decoder=decoder, operators=operators))


@pytest.mark.parametrize("name", ["reference DeepLabV3", "mmsegmentation DeepLabV3, 769"])
@torch.inference_mode()
def test_the_settings_alone_build_the_network_again(name: str, tmp_path: Path) -> None:
    """As a resumed run, an evaluation or an export do, where the published file is no longer at hand."""
    settings = {**SOURCES[name].settings, "classifier": "keep", "weights": file_of(name, tmp_path)}
    started = build(settings)
    again = build_model(
        dataclasses.replace(Model(**settings), weights="none"), num_classes=CLASSES, embedding=False
    )
    again.eval().load_state_dict(started.state_dict())
    images = picture(SOURCES[name].size)
    want = started(normalised(images, started)).logits
    assert again(normalised(images, again)).logits.equal(want)


def test_a_run_is_refused_before_it_starts_if_the_classes_are_not_the_file_s(
    scenes: Path, tmp_path: Path
) -> None:
    name = "mmsegmentation HRNet"
    model = Model(**SOURCES[name].settings, classifier="keep", weights=file_of(name, tmp_path))
    experiment = Experiment(
        data=Data(layout="cityscapes", root=str(scenes), crop_size=(32, 64)),
        model=model,
        optim=Optim(batch_size=2),
        run=Run(name="tuned", storage=str(tmp_path)),
    )
    with pytest.raises(ValueError, match="the file has 5 classes, and the data have 19"):
        training.check(experiment)
    training.check(dataclasses.replace(experiment, model=dataclasses.replace(model, classifier=None)))
