"""Published networks' files: each gives its source's logits, or is refused with what to set.

The sources are written again in ``support/published_sources`` and ``published_mmseg``, and torchvision's is
its own: a file is what such a network saves.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import published_mmseg as mmseg
import published_sources as sources
from pixelcontrast.config import Model
from pixelcontrast.models import SegmentationModel, build_model, check_model_weights
from published_sources import CLASSES, HRNET, RESNET, tensors_of, vary

BGR = {
    "data": {"input_mode": "BGR"},
    "normalize": {"div_value": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "network": {"backbone": "hrnet48"},
    "performance": np.float64(0.81),  # the trainer leaves NumPy's numbers there
}
CAFFE = {
    "data": {"input_mode": "BGR"},
    "normalize": {"div_value": 1.0, "mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0]},
    "network": {"backbone": "deepbase_resnet101_dilated8", "multi_grid": [1, 1, 1]},
}
RGB_OF_BGR = {"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}
RGB_OF_CAFFE = {"mean": (122.7717 / 255, 115.9465 / 255, 102.9801 / 255), "std": (1 / 255, 1 / 255, 1 / 255)}


class Source(NamedTuple):
    """A published network, its file, and the settings that build it."""

    network: Callable[[], Any]
    file: Callable[[dict[str, Tensor]], dict[str, Any]]
    settings: dict[str, Any]
    images: Callable[[Tensor], Tensor]
    """RGB in [0, 1] → what the source's loader gives its network."""
    size: tuple[int, int]


def of_reference(configuration: Mapping[str, Any]) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    return lambda state: {
        "config_dict": configuration,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
    }


def official(state: dict[str, Tensor]) -> dict[str, Any]:
    """The state dict of its FullModel, which holds the loss."""
    inside = {f"model.{key.removeprefix('backbone.')}": value for key, value in state.items()}
    return inside | {"loss.criterion.weight": torch.ones(CLASSES)}


def of_mmseg(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"meta": {"mmseg_version": "0.30.0", "CLASSES": ("road",) * CLASSES}, "state_dict": state}


def as_configured(configuration: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """Blue, green, red in 0 … 255, then the reference's ToTensor and Normalize."""
    normalize = configuration["normalize"]

    def images(rgb: Tensor) -> Tensor:
        pixels = rgb.flip(1) * 255 / normalize["div_value"]
        mean, std = (rgb.new_tensor(normalize[key])[:, None, None] for key in ("mean", "std"))
        return (pixels - mean) / std

    return images


def imagenet(rgb: Tensor) -> Tensor:
    mean, std = (rgb.new_tensor(BGR["normalize"][key])[:, None, None] for key in ("mean", "std"))
    return (rgb - mean) / std


def torchvision_deeplabv3() -> Any:
    build = torchvision.models.segmentation.deeplabv3_resnet50
    return build(weights=None, weights_backbone=None, aux_loss=True, num_classes=CLASSES)


def plain(state: dict[str, Tensor]) -> dict[str, Any]:
    return state


ON_HRNET, ON_RESNET = {"backbone": HRNET}, {"backbone": RESNET, "decoder": "deeplabv3"}
OF_HRNET, OF_MMSEG = {"operators": "hrnet"}, {"operators": "mmsegmentation"}
SIZE, ODD = (64, 96), (57, 80)
REFERENCES = {
    "reference HRNet": Source(
        sources.ReferenceHRNet,
        of_reference(BGR),
        {**ON_HRNET, "decoder_kernel": 3, **RGB_OF_BGR},
        as_configured(BGR),
        SIZE,
    ),
    "reference OCR": Source(
        sources.ReferenceOCR,
        of_reference(BGR),
        {**ON_HRNET, "decoder": "ocr", **RGB_OF_BGR},
        as_configured(BGR),
        SIZE,
    ),
    "reference DeepLabV3": Source(
        sources.ReferenceDeepLabV3,
        of_reference(CAFFE),
        {**ON_RESNET, **RGB_OF_CAFFE},
        as_configured(CAFFE),
        SIZE,
    ),
}
SOURCES = REFERENCES | {
    "official HRNet, branch HRNet-OCR": Source(
        lambda: sources.OfficialHRNet(align_corners=True),
        official,
        {**ON_HRNET, **OF_HRNET, "align_corners": "yes"},
        imagenet,
        SIZE,
    ),
    "official HRNet, branch pytorch-v1.1": Source(
        lambda: sources.OfficialHRNet(align_corners=False),
        official,
        {**ON_HRNET, **OF_HRNET, "align_corners": "no"},
        imagenet,
        SIZE,
    ),
    "official OCR": Source(
        sources.OfficialOCR, official, {**ON_HRNET, **OF_HRNET, "decoder": "ocr"}, imagenet, SIZE
    ),
    "mmsegmentation HRNet": Source(mmseg.MmsegHRNet, of_mmseg, {**ON_HRNET, **OF_MMSEG}, imagenet, SIZE),
    "mmsegmentation OCR": Source(
        mmseg.MmsegOCR, of_mmseg, {**ON_HRNET, **OF_MMSEG, "decoder": "ocr"}, imagenet, SIZE
    ),
    "mmsegmentation DeepLabV3": Source(
        lambda: mmseg.MmsegDeepLabV3(align_corners=False),
        of_mmseg,
        {**ON_RESNET, **OF_MMSEG, "align_corners": "no"},
        imagenet,
        ODD,
    ),
    "mmsegmentation DeepLabV3, 769": Source(
        lambda: mmseg.MmsegDeepLabV3(align_corners=True),
        of_mmseg,
        {**ON_RESNET, **OF_MMSEG, "align_corners": "yes"},
        imagenet,
        SIZE,
    ),
    "torchvision DeepLabV3": Source(
        torchvision_deeplabv3,
        plain,
        {"backbone": "resnet50", "decoder": "deeplabv3", "operators": "torchvision"},
        imagenet,
        SIZE,
    ),
}


class Published(NamedTuple):
    """What a source saves and gives."""

    state: dict[str, Tensor]
    logits: Tensor
    embedding: Tensor | None


@functools.cache
@torch.inference_mode()
def published(name: str) -> Published:
    torch.manual_seed(0)
    source = SOURCES[name]
    network = vary(source.network())
    state = tensors_of(network)
    images = source.images(picture(source.size))
    logits = network.double()(images)
    embedding = network.embed(images) if name in REFERENCES else None
    return Published(state, logits["out"] if isinstance(logits, dict) else logits, embedding)


def save(content: object, folder: Path, name: str = "published.pth") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def file_of(name: str, folder: Path) -> str:
    return save(SOURCES[name].file(dict(published(name).state)), folder)


def build(settings: Mapping[str, Any], *, num_classes: int = CLASSES, embedding: bool = False) -> Any:
    """Ours in evaluation, in float64: what float32 rounds away is no difference of operators."""
    torch.manual_seed(1)
    model = build_model(Model(**settings), num_classes=num_classes, embedding=embedding)
    return model.eval().double()


def normalised(rgb: Tensor, model: SegmentationModel) -> Tensor:
    mean, std = (rgb.new_tensor(values)[:, None, None] for values in (model.mean, model.std))
    return (rgb - mean) / std


def picture(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", SOURCES)
@torch.inference_mode()
def test_a_published_file_gives_its_source_s_logits(name: str, tmp_path: Path) -> None:
    settings = {**SOURCES[name].settings, "classifier": "keep"}
    model = build({**settings, "weights": file_of(name, tmp_path)})
    rgb = picture(SOURCES[name].size)
    torch.testing.assert_close(
        model(normalised(rgb, model)).logits, published(name).logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", REFERENCES)
@torch.inference_mode()
def test_the_reference_s_head_gives_its_embeddings_and_its_memory_is_left_aside(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"encoder_q.{key}": value for key, value in published(name).state.items()}
    queues = ("segment_queue", "segment_queue_ptr", "pixel_queue", "pixel_queue_ptr")
    content = SOURCES[name].file(state | {key: torch.zeros(2) for key in queues})
    weights = save(content, tmp_path)
    head = {"embedding_batchnorm": True, "embedding_dim": 16, "classifier": "keep"}
    model = build({**SOURCES[name].settings, **head, "weights": weights}, embedding=True)
    rgb = picture(SOURCES[name].size)
    got = F.normalize(model.projection(model(normalised(rgb, model)).uncropped))
    torch.testing.assert_close(got, published(name).embedding, rtol=1e-5, atol=1e-5)
    assert [record.getMessage() for record in caplog.records] == [f"{weights}: its memory is left aside"]


@pytest.mark.parametrize("name", SOURCES)
def test_one_refusal_has_all_settings_that_a_file_needs(name: str, tmp_path: Path) -> None:
    source, weights = SOURCES[name], file_of(name, tmp_path)
    start = {"backbone": source.settings["backbone"], "weights": weights}
    with pytest.raises(ValueError) as error:
        check_model_weights(Model(**start), num_classes=CLASSES, embedding=False)
    said = str(error.value)
    assert said.startswith(f"{weights}: is a ")
    settings: dict[str, Any] = {}
    for key, value in re.findall(r"^  --model\.(\S+?):? (.*)$", said, re.MULTILINE):
        field, numbers = key.replace("-", "_"), value.split()
        settings[field] = value if len(numbers) == 1 else tuple(map(float, numbers))
    if "decoder_kernel" in settings:
        settings["decoder_kernel"] = int(settings["decoder_kernel"])
    asked = {"classifier"} | ({"align_corners"} & source.settings.keys())
    assert all("yes for" in value or "keep if" in value for key, value in settings.items() if key in asked)
    answers = {"classifier": "keep", **{key: source.settings[key] for key in asked - {"classifier"}}}
    check_model_weights(Model(**{**start, **settings, **answers}), num_classes=CLASSES, embedding=False)


@pytest.mark.parametrize("name", ["official OCR", "torchvision DeepLabV3"])
def test_another_number_of_classes_gets_a_new_classifier_and_is_told(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SOURCES[name].settings, "weights": file_of(name, tmp_path)}
    model = build(settings, num_classes=3)
    assert "its classifier of 5 classes is replaced by a new one of 3" in caplog.text
    kept = build({**settings, "classifier": "keep"}).state_dict()
    new = {
        key
        for key, value in model.state_dict().items()
        if value.shape != kept[key].shape or not value.equal(kept[key])
    }
    classifiers = ("decoder.classifier", "decoder.auxiliary.classifier")
    assert new == {f"{classifier}.{part}" for classifier in classifiers for part in ("weight", "bias")}
    with pytest.raises(
        ValueError, match=r"--model\.classifier new: the file has 5 classes, and the data have 3"
    ):
        build({**settings, "classifier": "keep"}, num_classes=3)


def test_a_classifier_is_replaced_on_request(tmp_path: Path) -> None:
    name = "mmsegmentation HRNet"
    settings = {**SOURCES[name].settings, "weights": file_of(name, tmp_path)}
    kept, new = (build({**settings, "classifier": choice}).decoder for choice in ("keep", "new"))
    assert kept.conv.weight.equal(new.conv.weight)
    assert not kept.classifier.weight.equal(new.classifier.weight)
