"""The contrastive term of an experiment, and what its memory takes."""

from dataclasses import fields

import torch

from pixelcontrast.config import Contrast, Experiment
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.contrast.hyperparameters import MemoryConfig, Mining
from pixelcontrast.datasets.segmentation import build_dataset

_OF_QUEUE = {"pixel_queue_size", "pixels_per_image", "boundary_share"}
_OF_REGIONS = {"region_memory_size"}
_OF_MEMORY = {field.name for part in (MemoryConfig, Mining) for field in fields(part)} - {"memory"}
_OF_MEMORY |= {"memory_term", "memory_weight"}
_IDLE = {"none": _OF_MEMORY, "pixel": _OF_REGIONS, "region": _OF_QUEUE, "both": set[str]()}
"""``memory`` → the settings that act on what it leaves out."""


def build_contrast(experiment: Experiment, *, num_classes: int, num_images: int) -> PixelContrast | None:
    """The contrastive term of the experiment, whose batches wait for ``keep``; None where its weight is 0.

    Args:
        num_images: of the training set.
    """
    settings = experiment.contrast
    if settings.weight == 0:
        return None
    return PixelContrast(
        num_classes=num_classes,
        embedding_dim=experiment.model.embedding_dim,
        loss=settings,  # it inherits the settings of all four parts
        anchors=settings,
        memory=settings,
        mining=settings,
        num_images=num_images,
        seed=experiment.run.seed,
        deferred=True,
    )


def memory_bytes(experiment: Experiment) -> int:
    """Bytes of the memory that every worker holds, found without allocating it; 0 where there is none.

    With a sharded memory, those of the fewest workers that the run may have.
    """
    train_set = build_dataset(experiment.data, "train")
    with torch.device("meta"):
        contrast = build_contrast(
            experiment, num_classes=train_set.labels.num_classes, num_images=len(train_set)
        )
    if contrast is None:
        return 0
    rows = sum(bank.rows.nbytes for bank in contrast.memory.banks.values())
    parts = experiment.run.workers.min if experiment.contrast.memory_sharded else 1
    return contrast.memory.nbytes - rows + -(-rows // parts)


def without_effect(contrast: Contrast) -> str | None:
    """One line that names the settings, not at their defaults, of a memory that is not there; None without.

    A weight of 0 is the baseline, which has no use for any setting.
    """
    default = Contrast()
    idle = [
        f"contrast.{field.name} {getattr(contrast, field.name)}"
        for field in fields(contrast)
        if field.name in _IDLE[contrast.memory]
        and getattr(contrast, field.name) != getattr(default, field.name)
    ]
    if not idle or contrast.weight == 0:
        return None
    have = "has" if len(idle) == 1 else "have"
    return f"{', '.join(idle)} {have} no effect: contrast.memory is {contrast.memory}"
