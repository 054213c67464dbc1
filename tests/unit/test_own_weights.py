"""A network of the platform as the start of another run: what is taken of it, and what is told."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelcontrast import Contrast, Model, load_model
from pixelcontrast.inference import export_model
from pixelcontrast.models import SegmentationModel, build_model, check_model_weights
from trained_runs import images, write_run

OWN: dict[str, Any] = {
    "backbone": "test_resnet",
    "embedding_dim": 8,
    "align_corners": "no",
    "mean": (0.4, 0.4, 0.4),
}
SMALL = Model(**OWN)
CLASSES = 11
FILES = ("checkpoint", "safetensors", "torch", "moved")


def settings(weights: Path | str, **changes: Any) -> Model:
    own: dict[str, Any] = {**OWN, "classifier": "keep", **changes}
    return Model(**own, weights=str(weights))


def build(model: Model, *, num_classes: int = CLASSES, embedding: bool = True) -> SegmentationModel:
    check_model_weights(model, num_classes=num_classes, embedding=embedding)
    return build_model(model, num_classes=num_classes, embedding=embedding)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_run(tmp_path_factory.mktemp("runs"), model=SMALL, steps=(4,))[0])


@pytest.fixture(scope="module")
def files(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network in every kind of file; what was moved is without its settings."""
    folder, model = tmp_path_factory.mktemp("files"), load_model(run)
    checkpoint = run / "checkpoints/step-00000004/model.safetensors"
    return {
        "checkpoint": checkpoint,
        "safetensors": Path(export_model(model, "safetensors", out=str(folder / "a.safetensors"))),
        "torch": Path(export_model(model, "torch", out=str(folder / "a.pt"))),
        "moved": Path(shutil.copy(checkpoint, folder / "moved.safetensors")),
    }


@pytest.mark.parametrize("kind", FILES)
@torch.inference_mode()
def test_a_network_of_the_platform_gives_its_logits(
    kind: str, run: Path, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    network = build(settings(files[kind]), embedding=False).eval()
    assert network(images()).logits.equal(load_model(run)(images()).logits)
    assert not caplog.messages


def test_a_projection_head_that_fits_is_taken(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (build(settings(files["checkpoint"])).projection for _ in range(2))
    new = build(settings(files["torch"])).projection  # an export has none
    assert one is not None
    assert two is not None
    assert new is not None
    assert one.conv2.weight.equal(two.conv2.weight)
    assert not one.conv2.weight.equal(new.conv2.weight)
    assert not caplog.messages
    for changes in ({"embedding_dim": 4}, {"embedding_batchnorm": True}):
        build(settings(files["checkpoint"], **changes))
        assert "its projection head is left aside, and a new one trained" in caplog.text
        caplog.clear()


def test_contrast_starts_from_its_baseline(tmp_path: Path) -> None:
    """The baseline's checkpoint has no projection head."""
    folder = write_run(tmp_path, model=SMALL, contrast=Contrast(weight=0.0), steps=(4,))[0]
    file = Path(folder) / "checkpoints/step-00000004/model.safetensors"
    kept, started = (build(settings(file), embedding=embedding).state_dict() for embedding in (False, True))
    assert {key for key in started if key not in kept} == {
        f"projection.conv{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")
    }
    assert all(value.equal(started[key]) for key, value in kept.items())


def test_other_classes_get_a_new_classifier_on_the_same_decoder(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    network = build(settings(files["checkpoint"], classifier=None), num_classes=3)
    kept = build(settings(files["checkpoint"])).state_dict()
    other = {key for key, value in network.state_dict().items() if not value.equal(kept[key])}
    assert other == {"decoder.classifier.weight", "decoder.classifier.bias"}
    assert "its classifier of 11 classes is replaced by a new one of 3" in caplog.text
    with pytest.raises(ValueError, match=r"--model\.classifier: keep if the file's 11 classes \(sky, "):
        build(settings(files["safetensors"], classifier=None))


@pytest.mark.parametrize("kind", FILES[:3])
def test_other_operators_and_images_are_refused_with_their_options(kind: str, files: dict[str, Path]) -> None:
    model = settings(files[kind], align_corners=None, mean=None)
    with pytest.raises(ValueError, match="is a network of pixelcontrast, and gives its results") as error:
        build(model)
    assert "--model.align-corners no" in str(error.value)
    assert "--model.mean 0.4 0.4 0.4" in str(error.value)


def test_another_backbone_of_the_same_layers_and_the_mean_of_its_weights_are_told(tmp_path: Path) -> None:
    """As after training from weights with a mean of their own, started from again by the bare name."""
    own = Model(backbone="mobilenetv3_large_100.miil_in21k_ft_in1k", embedding_dim=8)  # mean 0, std 1
    folder = Path(write_run(tmp_path, model=own, steps=(4,))[0])
    file = str(folder / "checkpoints/step-00000004/model.safetensors")
    build(replace(own, weights=file, classifier="keep"))
    for backbone, says in (
        ("mobilenetv3_large_100", "--model.mean 0 0 0"),
        ("tf_mobilenetv3_large_100", f"--model.backbone {own.backbone}"),
    ):
        with pytest.raises(ValueError, match="gives its results only with its own settings") as error:
            build(replace(own, backbone=backbone, weights=file, classifier="keep"))
        assert says in str(error.value)


def test_of_a_network_with_another_decoder_the_backbone_is_taken_and_told(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = files["checkpoint"]
    network = build(settings(file, decoder="linear", classifier=None))
    told = "only its backbone is taken: its decoder has other layers than linear here"
    assert caplog.messages == [f"{file}: {told}"]
    whole = build(settings(file)).backbone.state_dict()
    assert all(value.equal(whole[key]) for key, value in network.backbone.state_dict().items())
    with pytest.raises(ValueError, match=r"model\.classifier is keep, but .* with such a decoder"):
        build(settings(file, decoder="linear"))
