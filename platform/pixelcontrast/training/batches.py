"""A rank's training batches on its device, and what their loading cost."""

import logging
import time
from collections import Counter
from collections.abc import Iterator

import torch

from pixelcontrast import distributed
from pixelcontrast.config import Experiment
from pixelcontrast.datasets.loading import Batch, TrainStream, train_loader
from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.datasets.stream import batch_positions, build_stream
from pixelcontrast.datasets.transforms import Normalization
from pixelcontrast.training.state import TrainState

logger = logging.getLogger(__name__)


class Batches:
    """This rank's slices of the global batches that are left, from ``state.step`` on when iterated.

    Attributes:
        seconds_waited: in which the loop had no batch to work on.
        replaced: image that could not be read → times that another took its place on this rank.
    """

    def __init__(
        self, experiment: Experiment, state: TrainState, train_set: SegmentationSet, device: torch.device
    ):
        self._experiment, self._state, self._train_set = experiment, state, train_set
        self._device = device
        self._stream = build_stream(train_set, experiment.data, experiment.run.seed)
        self.begin()

    def begin(self) -> None:
        """Count anew."""
        self.seconds_waited, self.replaced = 0.0, Counter[str]()

    def images_of(self, step: int) -> list[str]:
        """The images of a step's global batch, counted from 0, by their paths below the root.

        Where one that cannot be read is replaced, all are read again: another rank's may have been.
        """
        positions = batch_positions(step, batch_size=self._experiment.optim.batch_size)
        data = self._experiment.data
        if data.on_bad_sample == "stop":
            return [self._name_at(position) for position in positions]
        read = TrainStream(self._train_set, data, self._experiment.run.seed, self._stream)
        return [self._train_set.name(read[position].image_index) for position in positions]

    def __iter__(self) -> Iterator[Batch]:
        experiment, model = self._experiment, self._state.model
        loader = train_loader(
            self._train_set,
            experiment.data,
            seed=experiment.run.seed,
            batch_size=experiment.optim.batch_size,
            start_step=self._state.step,
            steps=experiment.optim.steps,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            normalization=Normalization(model.mean, model.std),
            pin_memory=self._device.type == "cuda",
        )
        begin = time.perf_counter()
        for batch in loader:
            self.seconds_waited += time.perf_counter() - begin
            self._note_replaced(batch)
            yield Batch(*(tensor.to(self._device, non_blocking=True) for tensor in batch))
            begin = time.perf_counter()

    def _note_replaced(self, batch: Batch) -> None:
        if self._experiment.data.on_bad_sample == "stop":
            return
        for position, index in zip(batch.positions.tolist(), batch.indices.tolist(), strict=True):
            if index != self._stream.sample_at(position):
                bad = self._name_at(position)
                self.replaced[bad] += 1
                logger.warning("%s cannot be read; %s took its place", bad, self._train_set.name(index))

    def _name_at(self, position: int) -> str:
        return self._train_set.name(self._stream.sample_at(position))
