"""Worker processes that are up all the time and make training steps when they are told to."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from inputs import NUM_CLASSES, label_maps
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pixelcontrast import Experiment, distributed
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.training.state import TrainState, build_state
from pixelcontrast.training.step import train_step


@dataclass(frozen=True)
class Turn:
    """Some steps of a worker."""

    steps: int
    frozen: bool
    """BatchNorm normalises by its running statistics, as in evaluation."""
    images: tuple[int, int]
    """The first of the global batch, and the first that is not its own."""


@dataclass
class _Timed:
    """``distributed.sum_small``, BatchNorm's reduction: how often, and the time in it."""

    count: int = 0
    seconds: float = 0.0

    def __call__(self, tensor: torch.Tensor, sum_small: Callable[..., torch.Tensor]) -> torch.Tensor:
        begin = time.perf_counter()
        total = sum_small(tensor)
        self.seconds += time.perf_counter() - begin
        self.count += 1
        return total


def _work(pipe: Connection, rank: int, world_size: int, store: str, settings: Experiment) -> None:
    """A worker's process: does the turns that come through the pipe, until it is closed."""
    torch.set_num_threads(1)
    if world_size > 1:
        where = {"init_method": f"file://{store}", "rank": rank, "world_size": world_size}
        dist.init_process_group("gloo", **where)
    timed = _Timed()
    distributed.sum_small = partial(timed, sum_small=distributed.sum_small)
    state = build_state(settings, num_classes=NUM_CLASSES, num_images=120, device=torch.device("cpu"))
    network = (
        state.model if world_size == 1 else DistributedDataParallel(state.model, forward_sync_buffers=False)
    )
    batches = _batches(settings)
    pipe.send(None)
    while (turn := pipe.recv()) is not None:
        _freeze(state.model, frozen=turn.frozen)
        timed.count, timed.seconds = 0, 0.0
        for _ in range(turn.steps):
            _step(state, network, next(batches), turn, settings)
        pipe.send((timed.count / turn.steps, timed.seconds))
    if world_size > 1:
        dist.destroy_process_group()


def _batches(settings: Experiment) -> Iterator[Batch]:
    """Four global batches, again and again, at new places in the stream."""
    size, (height, width) = settings.optim.batch_size, settings.data.crop_size
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(size, 3, height, width, generator=generator) for _ in range(4)]
    labels = label_maps(size, height, width, block=16)
    for step in itertools.count():
        positions = torch.arange(size) + step * size
        yield Batch(images[step % 4], labels, positions, positions % 120)


def _step(state: TrainState, network: nn.Module, batch: Batch, turn: Turn, settings: Experiment) -> None:
    mine = Batch(*(tensor[slice(*turn.images)] for tensor in batch))
    weight = settings.contrast.weight
    train_step(network, state.contrast, state.optimizer, mine, contrast_weight=weight)


def _freeze(model: nn.Module, *, frozen: bool) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not frozen)


class Team:
    """Worker processes, with or without a process group."""

    def __init__(self, context: Any, settings: Experiment, store: Path, *, size: int, grouped: bool):
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            place = (rank, size) if grouped else (0, 1)
            arguments = (theirs, *place, str(store), settings)
            self._processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self._processes[-1].start()
            self._pipes.append(ours)

    def ready(self) -> None:
        """Wait until every worker is built."""
        for pipe in self._pipes:
            pipe.recv()

    def seconds(self, turns: Sequence[Turn]) -> tuple[float, float, float]:
        """Wall time per step, and of the first worker BatchNorm's reductions per step and their share."""
        begin = time.perf_counter()
        for pipe, turn in zip(self._pipes, turns, strict=False):
            pipe.send(turn)
        found = [pipe.recv() for pipe, _ in zip(self._pipes, turns, strict=False)]
        took = time.perf_counter() - begin
        count, waited = found[0]
        return took / turns[0].steps, count, waited / took

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
