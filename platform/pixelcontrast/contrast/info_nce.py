"""The loss of anchors against any number of keys, in memory that does not grow with their number.

With L the log-sum-exp of an anchor's negatives, Eq. 3 is the mean over its positives of softplus(L − s⁺). So
there are two sweeps, over the negatives for L, then over the positives, and each gathers on its way what the
gradient needs: a sum of keys for every anchor. Keys come in blocks, and backward recomputes nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pixelcontrast import distributed
from pixelcontrast.contrast.sweeps import Block, Classes, Negatives, Positives, chunk_size, classes_of
from pixelcontrast.distributed import Group

Blocks = Callable[[Tensor, Classes], Iterator[Block]]
"""Memory keys for anchors [a, D], sorted by class."""


@dataclass(frozen=True)
class Meeting:
    """Who meets whom.

    Where ``in_batch``, an anchor meets all other anchors of the global batch: those of its class are
    positives, the others negatives. What it meets beyond them comes from ``positives`` and ``negatives``.
    """

    labels: Tensor
    """int64 [A]: classes of all anchors of the global batch; on each rank ascending."""
    counts: list[int]
    """Anchors of each rank; they sum to A."""
    here: slice
    """This rank's among all."""
    positives: Blocks
    negatives: Blocks
    temperature: float
    in_batch: bool = True
    sharded: bool = False
    """Whether ``positives`` and ``negatives`` are one of W parts, and the anchors of all ranks meet each."""
    group: Group = None


class Similarities(NamedTuple):
    """Counts and sums of cosines of this rank's anchors, each [a], with the keys of one source."""

    positives: Tensor
    """Number of positives of every anchor."""
    positive_sum: Tensor
    """Sum of the cosines with them."""
    negatives: Tensor
    negative_sum: Tensor


class Met(NamedTuple):
    """What the anchors of this rank were compared with, in the memory and in the batch."""

    memory: Similarities
    batch: Similarities


def info_nce(anchors: Tensor, batch: Tensor, meeting: Meeting) -> tuple[Tensor, Met]:
    """Sum of Eq. 3 (Wang et al., ICCV 2021) over this rank's anchors, with gradient to both arguments.

    Args:
        anchors: [a, D], this rank's; float32 or float64.
        batch: [A, D], those of all ranks; ``batch[meeting.here]`` are the anchors.

    Returns:
        A scalar, and what it was made of. Blocks are only read while this runs. With ``sharded`` meetings
        every rank must call it.
    """
    total, *sums = _InfoNCE.apply(anchors, batch, meeting)  # type: ignore[misc]
    return total, Met(Similarities(*sums[:4]), Similarities(*sums[4:]))


def no_blocks(anchors: Tensor, classes: Classes) -> Iterator[Block]:
    """Of an empty memory."""
    del anchors, classes
    return iter(())


class _Sweepers(NamedTuple):
    """The anchors that meet the memory, sorted by class: this rank's, or, where it is sharded, all ranks'."""

    rows: Tensor
    classes: Classes
    order: Tensor | None = None
    """int64 [A]: of all ranks' anchors."""

    def own(self, meeting: Meeting) -> Tensor:
        """Where this rank's anchors are."""
        assert self.order is not None
        return torch.argsort(self.order)[meeting.here]


def _sweepers(own: Tensor, batch: Tensor, meeting: Meeting) -> _Sweepers:
    if not meeting.sharded:
        return _Sweepers(own, classes_of(meeting.labels[meeting.here]))
    order = torch.argsort(meeting.labels, stable=True)
    return _Sweepers(batch[order], classes_of(meeting.labels[order]), order)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, batch: Tensor, meeting: Meeting) -> tuple[Tensor, ...]:
        own, batch = own.detach(), batch.detach()
        same, other = _in_batch(meeting)
        rows, classes, order = sweepers = _sweepers(own, batch, meeting)

        near = Negatives(rows, meeting.temperature)
        for block in meeting.negatives(rows, classes):
            near.add(block)
        if order is not None:
            near.reduce(meeting.group, sweepers.own(meeting))
        in_memory = [near.count.clone(), near.similarity.clone()]
        if meeting.in_batch:
            near.add(Block(slice(None), batch, other))

        log_sum = near.log_sum
        if order is not None:
            log_sum = distributed.all_gather_rows(log_sum, meeting.group, counts=meeting.counts)[order]
        far = Positives(rows, log_sum, meeting.temperature)
        for block in meeting.positives(rows, classes):
            far.add(block)
        if order is not None:
            far.reduce(meeting.group, sweepers.own(meeting))
        in_memory = [far.count.clone(), far.similarity.clone(), *in_memory]
        if meeting.in_batch:
            far.add(Block(slice(None), batch, same))

        share = far.count.clamp(min=1).reciprocal()
        slope = far.weight * share  # of the loss in L
        pulled = (slope[:, None] * near.mean - share[:, None] * far.pull) / meeting.temperature
        pulled_batch = (
            _pull_on_batch(near, far, batch, same, other) if meeting.in_batch else torch.zeros_like(batch)
        )
        ctx.save_for_backward(pulled, pulled_batch)
        in_all = [far.count, far.similarity, near.count, near.similarity]
        scale = [1.0, meeting.temperature] * 2
        met = [part * factor for part, factor in zip(in_memory, scale, strict=True)]
        met += [(al - part) * f for al, part, f in zip(in_all, in_memory, scale, strict=True)]
        ctx.mark_non_differentiable(*met)
        return (far.loss * share).sum(), *met

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        pulled, pulled_batch = ctx.saved_tensors
        return grad * pulled, grad * pulled_batch, None


def _in_batch(meeting: Meeting) -> tuple[Tensor, Tensor]:
    """Positives and negatives of this rank's anchors in the batch, without themselves: bool [a, A]."""
    other = meeting.labels[meeting.here, None] != meeting.labels
    same = ~other
    numbers = torch.arange(len(same), device=same.device)
    same[numbers, numbers + meeting.here.start] = False
    return same, other


def _pull_on_batch(near: Negatives, far: Positives, batch: Tensor, same: Tensor, other: Tensor) -> Tensor:
    """Gradient of the loss in the anchors of the batch as keys: [A, D]."""
    share = far.count.clamp(min=1).reciprocal()[:, None]
    slope = far.weight[:, None] * share
    pulled = torch.zeros_like(batch)
    step = max(chunk_size(len(batch), len(near.scaled)) // 4, 1)  # several of this size are alive at once
    for begin in range(0, len(batch), step):
        part = slice(begin, begin + step)
        excess = near.scaled @ batch[part].T
        excess.sub_(near.log_sum[:, None])
        force = torch.sigmoid(-excess).mul_(-share).masked_fill_(~same[:, part], 0)
        force += excess.exp_().mul_(slope).masked_fill_(~other[:, part], 0)
        torch.mm(force.T, near.scaled, out=pulled[part])
    return pulled
