"""A trained network on the images of a split: the drawn pixels' features, and the images it does worst on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.datasets.transforms import Normalization, eval_transform
from pixelcontrast.evaluation import ConfusionMatrix
from pixelcontrast.inference.inspection.pixels import Pixels, draw_pixels, merge
from pixelcontrast.inference.trained import TrainedModel

FEATURES, EMBEDDING = "features", "embedding"
"""The layers: what the decoder's classifier and the projection head read, and what the head makes of it."""
MAX_IMAGES = 100
"""Images looked at, spread evenly over the split."""
_MAX_PIXELS, _MAX_PIXELS_PER_CLASS = 3000, 100
_FEWEST_PIXELS = 5
"""t-SNE needs more neighbours than fewer have."""
_WORST = 4


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """An image with a low mIoU."""

    index: int
    """In the split."""
    miou: float
    """Mean over the classes that occur or are predicted in this image."""
    prediction: Tensor
    """uint8 [H, W], on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was seen of one network."""

    model: TrainedModel
    pixels: Pixels
    worst: tuple[BadImage, ...]
    """The lowest mIoU first."""

    @property
    def has_head(self) -> bool:
        return self.model.projection is not None


def images_of(dataset: SegmentationSet) -> list[int]:
    """Which images of a split are looked at: all, or ``MAX_IMAGES`` spread evenly."""
    return torch.linspace(0, len(dataset) - 1, min(MAX_IMAGES, len(dataset))).long().tolist()


def pixels_per_class(num_classes: int) -> int:
    """How many pixels of each class are drawn, where there are as many."""
    return max(2, min(_MAX_PIXELS_PER_CLASS, _MAX_PIXELS // num_classes))


@torch.inference_mode()
def observe(
    model: TrainedModel,
    dataset: SegmentationSet,
    images: Sequence[int],
    *,
    on_image: Callable[[], object],
) -> Observation:
    """Run a network on whole images, each once; features of the drawn pixels alone are kept.

    Args:
        model: from ``load_with_head``, on any device.
        dataset: with the network's classes.
        images: indices in it.
        on_image: called after every image.

    Raises:
        ValueError: an image cannot be read, or hardly a pixel of all images is labelled.
    """
    per_class, found = pixels_per_class(dataset.labels.num_classes), None
    worst: list[BadImage] = []
    for index in images:
        label, prediction, maps = _run(model, dataset, index)
        drawn = draw_pixels(
            index,
            label,
            prediction,
            maps,
            per_class=per_class,
            spread_over=model.padded_size(label.shape),
            align_corners=model.align_corners,
        )
        found = drawn if found is None else merge(found, drawn, per_class=per_class)
        confusion = ConfusionMatrix(dataset.labels.num_classes)
        confusion.update(prediction, label)
        miou = confusion.scores().miou
        if miou == miou:  # an image without labels has none
            image = BadImage(index=index, miou=miou, prediction=prediction.to(torch.uint8))
            worst = sorted([*worst, image], key=lambda each: each.miou)[:_WORST]
        on_image()
    if found is None or len(found) < _FEWEST_PIXELS:
        there = 0 if found is None else len(found)
        raise ValueError(
            f"{dataset.root}: {there} labelled pixels in the {len(images)} images looked at; at least "
            f"{_FEWEST_PIXELS} are needed"
        )
    return Observation(model=model, pixels=found, worst=tuple(worst))


def _run(
    model: TrainedModel, dataset: SegmentationSet, index: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Label and prediction, int64 [H, W], and the layers' maps [1, D, h, w] of the padded image."""
    image, label = eval_transform(*dataset.read(index), Normalization(model.mean, model.std))
    output = model.forward_features(image[None].to(next(model.parameters()).device))
    assert output.uncropped is not None
    maps = {FEATURES: output.uncropped}
    if model.projection is not None:
        maps[EMBEDDING] = model.projection(output.uncropped)
    return label, output.logits[0].argmax(dim=0).cpu(), maps
