"""What the benchmarks compute on: banks, anchors and maps, drawn from fixed seeds."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast.banks import Queue, Shard
from pixelcontrast.contrast.hyperparameters import ExampleMining
from pixelcontrast.contrast.info_nce import Comparison, info_nce
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.contrast.mining import Miner
from pixelcontrast.contrast.sweeps import Classes

NUM_CLASSES, DIM, TEMPERATURE = 19, 256, 0.1
IGNORE_INDEX = 255


class Problem(NamedTuple):
    """Anchors and a full memory."""

    anchors: Tensor
    """[A, D], a leaf, by class."""
    labels: Tensor
    """int64 [A]"""
    memory: Memory

    @property
    def bank(self) -> Tensor:
        """[N, D], by class."""
        assert self.memory.pixel is not None
        return self.memory.pixel.rows.flatten(0, 1)

    @property
    def bank_labels(self) -> Tensor:
        """int64 [N]"""
        assert self.memory.pixel is not None
        num_classes, size = self.memory.pixel.written.shape
        return torch.arange(num_classes, device=self.labels.device).repeat_interleave(size)

    def with_gradient(self, loss: Callable[["Problem"], Tensor]) -> Tensor:
        """The loss's value; its gradient is then in ``anchors``."""
        self.anchors.grad = None
        value = loss(self)
        value.backward()
        return value.detach()


def problem(
    *,
    num_anchors: int,
    bank_rows: int,
    num_classes: int = NUM_CLASSES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Problem:
    """As many anchors of every class, and a queue of about ``bank_rows`` rows."""
    labels = torch.arange(num_anchors) * num_classes // num_anchors
    anchors = unit_rows(labels, seed=1).to(device).requires_grad_()
    queue = full_queue(num_classes, bank_rows // num_classes, dtype=dtype)
    return Problem(anchors, labels.to(device), Memory(queue, None).to(device))


def full_queue(
    num_classes: int, size: int, *, dtype: torch.dtype = torch.float32, shard: Shard | None = None
) -> Queue:
    """A queue of which every slot is taken."""
    queue = Queue(num_classes, size, DIM, dtype, shard or Shard())
    fill(queue)
    return queue


def fill(queue: Queue) -> None:
    """Let as many rows in as there are slots."""
    labels = torch.arange(len(queue.pointer)).repeat_interleave(queue.size)
    queue.write(unit_rows(labels, seed=2), labels, step=0)


def unit_rows(labels: Tensor, *, seed: int) -> Tensor:
    """Embeddings [n, D] around a centre for each class: cosines of about 0.5 within, 0 between classes."""
    num_classes = int(labels.max()) + 1
    centres = F.normalize(torch.randn(num_classes, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    noise = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise.div_(DIM**0.5).add_(centres[labels]), dim=1)


def streaming_loss(
    problem: Problem, *, negatives: ExampleMining | None, positives: ExampleMining | None, num: int = 1
) -> Tensor:
    """Ours: the mean of Eq. 3 over the anchors, against each other and the memory as it is mined.

    Args:
        negatives, positives: None for those of the batch only.
        num: K of the mining.
    """
    examples = problem.memory.examples(seed=0, key=0, step=0)
    count = len(problem.labels)
    comparison = Comparison(
        labels=problem.labels,
        counts=[count],
        here=slice(0, count),
        temperature=TEMPERATURE,
        of_class=problem.labels.bincount().tolist(),
        positives=partial(Miner(positives, num, 0.1).positives, examples=examples) if positives else _nothing,
        negatives=partial(Miner(negatives, num, 0.1).negatives, examples=examples) if negatives else _nothing,
    )
    return info_nce(problem.anchors, problem.anchors, comparison) / count


def _nothing(anchors: Tensor, classes: Classes) -> Iterator[Any]:
    """The keys of a memory of which none are taken."""
    del anchors, classes
    return iter(())


def label_maps(count: int, height: int, width: int, *, block: int, seed: int = 3) -> Tensor:
    """int64 [count, height, width]: square blocks of random classes, one in twenty void."""
    generator = torch.Generator().manual_seed(seed)
    shape = count, height // block, width // block
    labels = torch.randint(NUM_CLASSES, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.05] = IGNORE_INDEX
    return labels.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)


def logit_maps(labels: Tensor) -> Tensor:
    """[B, 19, h, w]: noise, with 3 more for the true class, which leaves about one pixel in six wrong."""
    noise = torch.randn(
        len(labels), NUM_CLASSES, *labels.shape[1:], generator=torch.Generator().manual_seed(4)
    )
    truth = labels[:, None] == torch.arange(NUM_CLASSES)[:, None, None]
    return noise + 3 * truth


def embedding_maps(labels: Tensor) -> Tensor:
    """[B, D, h, w], unit length over D; a leaf."""
    known = torch.where(labels == IGNORE_INDEX, 0, labels)
    rows = unit_rows(known.flatten(), seed=5)
    maps = rows.view(*labels.shape, DIM).permute(0, 3, 1, 2).contiguous()
    return maps.requires_grad_()
