"""The contrastive term of an experiment, and what its memory takes."""

import torch

from pixelcontrast.config import Experiment
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.contrast.sampling import ceil_share
from pixelcontrast.datasets.segmentation import build_dataset


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


def warmup_steps(experiment: Experiment) -> int:
    """Steps, from the first on, in which the contrast trains its projection head alone."""
    return ceil_share(experiment.optim.steps, experiment.contrast.warmup)


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
