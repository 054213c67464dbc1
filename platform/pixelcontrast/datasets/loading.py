"""Loaders: training batches by stream position, validation images one by one."""

import multiprocessing
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import FileError
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.loader import Fault, Loader
from pixelcontrast.datasets.parallel import end_with_parent
from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.datasets.stream import StepSampler, Stream, build_stream, replacement
from pixelcontrast.datasets.transforms import (
    IMAGENET,
    Normalization,
    eval_transform,
    train_transform,
)

_MOST_REPLACEMENTS = 10
"""Images that are tried for one that cannot be read; so many damaged ones are a broken disk."""
_PRELOADED = ("torch", "torchvision.transforms.v2.functional", "PIL.Image", __name__)


class Sample(NamedTuple):
    """A training crop: float32 [3, h, w], int64 [h, w], its stream position and the index of its image."""

    image: Tensor
    label: Tensor
    position: int
    image_index: int


class Batch(NamedTuple):
    """A rank's part of a step's global batch, in stream order."""

    images: Tensor
    """float32 [b, 3, h, w], normalised."""
    labels: Tensor
    """int64 [b, h, w], train ids."""
    positions: Tensor
    """int64 [b], places in the sample stream."""
    indices: Tensor
    """int64 [b], indices into the training set."""


class EvalBatch(NamedTuple):
    """One validation image at its own size."""

    images: Tensor
    """float32 [1, 3, H, W], normalised."""
    labels: Tensor
    """int64 [1, H, W], train ids."""
    indices: Tensor
    """int64 [1], index into the validation set."""


@dataclass(frozen=True)
class TrainStream(Dataset[Sample]):
    """The training set by stream position: whoever reads a position, and when, gets the same crop.

    With ``data.on_bad_sample`` skip, ``Sample.image_index`` is not the stream's image where that cannot be
    read, but the one that was taken instead.
    """

    dataset: SegmentationSet
    data: Data
    seed: int
    stream: Stream
    normalization: Normalization = IMAGENET

    def __getitem__(self, position: int) -> Sample:
        index = self.stream.sample_at(position)
        for attempt in range(_MOST_REPLACEMENTS):
            try:
                return self._crop(index, position)
            except FileError:
                if self.data.on_bad_sample == "stop":
                    raise
                index = replacement(len(self.dataset), seed=self.seed, position=position, attempt=attempt)
        return self._crop(index, position)

    def _crop(self, index: int, position: int) -> Sample:
        image, label = self.dataset.read(index)
        image, label = train_transform(
            image,
            label,
            data=self.data,
            seed=self.seed,
            position=position,
            normalization=self.normalization,
        )
        largest = int(torch.where(label == IGNORE_INDEX, 0, label).max())
        if largest >= self.dataset.labels.num_classes:  # only a pack that was damaged meanwhile has such ids
            raise FileError(
                f"{self.dataset.where(index)}: its label is damaged: it has class {largest} "
                f"of {self.dataset.labels.num_classes}",
                remedy="see pixelcontrast data check",
            )
        return Sample(image, label, position, index)


@dataclass(frozen=True)
class _EvalImages(Dataset[EvalBatch]):
    dataset: SegmentationSet
    normalization: Normalization

    def __getitem__(self, index: int) -> EvalBatch:
        image, label = eval_transform(*self.dataset.read(index), self.normalization)
        return EvalBatch(image[None], label[None], torch.tensor([index]))


def train_loader(
    dataset: SegmentationSet,
    data: Data,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    steps: int,
    rank: int,
    world_size: int,
    normalization: Normalization = IMAGENET,
    pin_memory: bool = False,
) -> DataLoader:
    """One ``Batch`` per step from ``start_step`` to ``steps − 1``: this rank's slice of the global batch.

    What step s yields depends on the seed, the batch size and s alone, so a run resumed at a step continues
    with the very same tensors, on any number of ranks and with any ``data.loader_processes``.

    Args:
        dataset: the training split.
        data: how crops are cut and images drawn, and ``loader_processes``.
        seed: the run's seed.
        batch_size: images per step over all ranks; at least ``world_size``.
        start_step: the first step to load; 0 for a new run.
        steps: the run's number of steps.
        rank: this process among ``world_size``.
        world_size: number of ranks; need not divide ``batch_size``.
        normalization: the backbone's mean and standard deviation.
        pin_memory: return page-locked tensors, for asynchronous copies to a CUDA device.

    Raises (while iterating):
        ValueError: as ``SegmentationSet.read``, from a loader process too.
    """
    assert 0 <= rank < world_size <= batch_size
    return Loader(
        TrainStream(dataset, data, seed, build_stream(dataset, data, seed), normalization),
        batch_sampler=StepSampler(
            start_step=start_step, steps=steps, batch_size=batch_size, rank=rank, world_size=world_size
        ),
        collate_fn=_collate,
        pin_memory=pin_memory,
        **_common(data.loader_processes),
    )


def eval_loader(
    dataset: SegmentationSet,
    *,
    rank: int,
    world_size: int,
    normalization: Normalization = IMAGENET,
    loader_processes: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """One ``EvalBatch`` per image: over all ranks each image exactly once, in order, without padding.

    Ranks may get different numbers of images, and none where there are fewer images than ranks.

    Raises (while iterating):
        ValueError: as ``SegmentationSet.read``, from a loader process too.
    """
    assert 0 <= rank < world_size
    mine = range(rank * len(dataset) // world_size, (rank + 1) * len(dataset) // world_size)
    return Loader(
        _EvalImages(dataset, normalization),
        batch_size=None,
        sampler=mine,
        pin_memory=pin_memory,
        **_common(loader_processes),
    )


def _collate(samples: list[Sample | Fault]) -> Batch | Fault:
    fault = next((sample for sample in samples if isinstance(sample, Fault)), None)
    if fault is not None:
        return fault
    # default_collate, in a loader process, stacks straight into the shared memory.
    return Batch(*default_collate(samples))


def _common(loader_processes: int) -> dict[str, Any]:
    """Options of both loaders.

    Loader processes are forked from a server that has no threads and no CUDA context. Forked from the worker
    itself they would inherit the locks that Ray's, gloo's and OpenMP's threads hold, and hang; spawned they
    would each import torch anew, at every evaluation.
    """
    # A DataLoader draws a seed when it is iterated; from its own generator, so that torch's is left alone.
    options: dict[str, Any] = {"num_workers": loader_processes, "generator": torch.Generator()}
    if loader_processes:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        options |= {"multiprocessing_context": context, "worker_init_fn": _begin}
    return options


def _begin(_: int) -> None:
    # torch looks at the parent's process id, which is the fork server here.
    end_with_parent()
