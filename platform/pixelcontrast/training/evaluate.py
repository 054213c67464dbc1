"""Evaluation of the network on the validation images, shared among the workers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.datasets.loading import eval_loader
from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.datasets.transforms import Normalization, eval_transform
from pixelcontrast.evaluation import ConfusionMatrix, contact_sheet, overlay, shrunk
from pixelcontrast.models import SegmentationModel
from pixelcontrast.runs.run_folder import Row

_NUM_OVERLAYS = 4


class Evaluation(NamedTuple):
    """What the network scores on a whole set, each image counted once."""

    scores: Row
    """``miou``, ``pixel_accuracy``, and ``iou`` per class: None of one that neither occurs nor is predicted,
    which has no part in the mean."""
    confusion: Row
    """``classes``, their names, ``colors``, their RGB for pictures, and ``pixels``: counts of [true
    class][predicted class]."""


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: SegmentationSet,
    *,
    device: torch.device,
    loader_processes: int = 0,
    autocast: torch.dtype | None = None,
    on_image: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Evaluate the network on the validation images, shared among the workers.

    Args:
        on_image: called after every image of this worker's share. The workers meet only at the end, and one
            may come much later than another.

    Raises:
        ValueError: no pixel of any image is labelled.
    """
    confusion = ConfusionMatrix(dataset.labels.num_classes, device=device)
    loader = eval_loader(
        dataset,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        normalization=Normalization(model.mean, model.std),
        loader_processes=loader_processes,
    )
    was_training = model.training
    model.eval()
    for batch in loader:
        confusion.update(predict(model, batch.images.to(device), autocast), batch.labels.to(device))
        on_image()
    model.train(was_training)
    confusion.all_reduce()
    if not distributed.on_host(confusion.matrix.any()):
        raise ValueError(f"{dataset.root}: no pixel of the {len(dataset)} validation images is labelled")
    scores = confusion.scores()
    iou = [None if value != value else value for value in scores.iou]  # NaN is not JSON
    names, colors = dataset.labels.names, dataset.labels.colors
    return Evaluation(
        scores={
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "iou": dict(zip(names, iou, strict=True)),
        },
        confusion={"classes": list(names), "colors": colors, "pixels": confusion.matrix.tolist()},
    )


def predict(model: SegmentationModel, images: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    """Classes, int64 [B, H, W], of normalised images [B, 3, H, W].

    Raises:
        torch.OutOfMemoryError: with a note that it was an evaluation, and the images' size.
    """
    try:
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            return model(images).logits.argmax(dim=1)
    except torch.OutOfMemoryError as error:
        height, width = images.shape[-2:]
        error.add_note(f"A whole validation image of {width}×{height} pixels was being evaluated")
        raise


@torch.inference_mode()
def draw_overlays(
    model: SegmentationModel,
    dataset: SegmentationSet,
    *,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> bytes:
    """A PNG of image, truth and prediction for a few validation images, always the same ones."""
    was_training = model.training
    model.eval()
    colors = torch.tensor(dataset.labels.colors, dtype=torch.uint8)
    normalization, rows = Normalization(model.mean, model.std), []
    for index in torch.linspace(0, len(dataset) - 1, min(_NUM_OVERLAYS, len(dataset))).long().tolist():
        image, truth = dataset.read(index)
        normalised, _ = eval_transform(image, truth, normalization)
        prediction = predict(model, normalised[None].to(device), autocast)[0]
        rows.append(shrunk(overlay(image, truth, prediction.cpu(), colors)))
    model.train(was_training)
    return contact_sheet(rows, names=dataset.labels.names, colors=colors)
