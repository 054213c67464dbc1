"""InfoNCE of anchors against any number of keys, in memory that does not grow with their number.

Eq. 3 (Wang et al., ICCV 2021) of an anchor i with positives P and negatives N is

    ℓ_i = 1/|P| Σ_p softplus(L_i − s_ip),   L_i = log Σ_n exp(s_in),   s_ik = i·k / τ

so there are two sweeps over the keys: over the negatives for L, then over the positives for ℓ. Each also sums
the keys with the weights that the gradient needs, so backward recomputes nothing. The memory's keys come in
blocks; the batch's are held at once: two matrices of this rank's anchors × all anchors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pixelcontrast import distributed
from pixelcontrast.contrast.sweeps import Block, ClassBlock, Classes, Negatives, Positives, classes_of
from pixelcontrast.distributed import Group

NegativeBlocks = Callable[[Tensor, Classes], Iterator[Block]]
PositiveBlocks = Callable[[Tensor, Classes], Iterator[ClassBlock]]
"""Memory keys for anchors [a, D], sorted by class."""


@dataclass(frozen=True)
class Comparison:
    """Which keys each anchor is compared with.

    Where ``in_batch``, with all other anchors of the global batch: those of its class are positives, the
    others negatives. ``positives`` and ``negatives``, both or none, give further keys, those of the memory.
    """

    labels: Tensor
    """int64 [A]: classes of all anchors of the global batch; on each rank ascending."""
    counts: list[int]
    """Anchors of each rank; they sum to A."""
    here: slice
    """This rank's among all."""
    temperature: float
    of_class: list[int] = field(default_factory=list)
    """How many anchors of each class are compared with this rank's memory: its own or, ``sharded``, all."""
    positives: PositiveBlocks | None = None
    negatives: NegativeBlocks | None = None
    in_batch: bool = True
    sharded: bool = False
    """Whether ``positives`` and ``negatives`` are one of W parts, and each part is compared with the anchors
    of all ranks."""
    group: Group = None


def info_nce(anchors: Tensor, batch: Tensor, comparison: Comparison) -> Tensor:
    """Sum of Eq. 3 (Wang et al., ICCV 2021) over this rank's anchors, with gradient to both arguments.

    Collective where the comparison is ``sharded``: call it on every rank. Blocks are only read while it runs.

    Args:
        anchors: [a, D], this rank's; float32 or float64, of unit length.
        batch: [A, D], those of all ranks; ``batch[comparison.here]`` are the anchors.

    Returns:
        A scalar.
    """
    return _InfoNCE.apply(anchors, batch, comparison)  # type: ignore[return-value]


class _Rows(NamedTuple):
    """The anchors that are compared with this rank's memory: its own, or, where it is sharded, all ranks'."""

    rows: Tensor
    """Sorted by class."""
    classes: Classes | None
    """None where there is no memory."""
    order: Tensor | None = None
    """int64 [A]: places of the sorted anchors in the global batch; None for this rank's own."""

    def own(self, comparison: Comparison) -> Tensor:
        """Places of this rank's anchors among ``rows``."""
        assert self.order is not None
        return torch.argsort(self.order)[comparison.here]


def _rows(own: Tensor, batch: Tensor, comparison: Comparison) -> _Rows:
    labels = comparison.labels
    if comparison.positives is None:
        return _Rows(own, None)
    if not comparison.sharded:
        return _Rows(own, classes_of(labels[comparison.here], comparison.of_class))
    order = torch.argsort(labels, stable=True)
    return _Rows(batch[order], classes_of(labels[order], comparison.of_class), order)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, batch: Tensor, comparison: Comparison) -> Tensor:
        own, batch, tau = own.detach(), batch.detach(), comparison.temperature
        rows, classes, order = compared = _rows(own, batch, comparison)

        # First sweep, over the negatives: L [a], and Σ_n exp(s_in) n [a, D], both of a shift.
        scaled = rows / tau
        negatives = Negatives(scaled, tau)
        if classes is not None and comparison.negatives is not None:
            for block in comparison.negatives(rows, classes):
                negatives.add(block)
        if order is not None:
            negatives.reduce(comparison.group, compared.own(comparison))
        in_batch = _InBatch(negatives, batch, comparison) if comparison.in_batch else None
        log_sum = negatives.log_sum
        if order is not None:
            log_sum = distributed.all_gather_rows(log_sum, comparison.group, counts=comparison.counts)[order]

        # Second sweep, over the positives: Σ_p softplus(L − s_ip) [a], Σ_p σ(L − s_ip) [a] and its sum of p.
        positives = Positives(scaled, log_sum)
        if classes is not None and comparison.positives is not None:
            for block in comparison.positives(rows, classes):
                positives.add(block, classes)
        if order is not None:
            positives.reduce(comparison.group, compared.own(comparison))
        slopes = None if in_batch is None else positives.add_slopes(in_batch.similarity, in_batch.same)

        # ∂ℓ/∂s_ip = −1/|P| σ(L − s_ip), ∂ℓ/∂L = 1/|P| Σ_p σ(L − s_ip), ∂L/∂s_in = exp(s_in − L).
        share = positives.share  # 1/|P|: [a, 1]
        of_negatives = positives.weight * share / negatives.safe_weight  # ∂ℓ/∂L / Σ_n exp(s_in): [a, 1]
        grad_own = negatives.pull.mul_(of_negatives).addcmul_(positives.pull, share, value=-1)
        if in_batch is None or slopes is None:
            grad_batch = torch.zeros_like(batch)
        else:
            slope = in_batch.force.mul_(of_negatives).sub_(slopes.mul_(share))  # ∂ℓ_i/∂s_ik: [a, A]
            grad_own.addmm_(slope, batch)
            grad_batch = slope.T @ negatives.scaled  # scaled is i/τ
        ctx.save_for_backward(grad_own.div_(tau), grad_batch)
        return positives.loss @ share.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        grad_own, grad_batch = ctx.saved_tensors
        return grad * grad_own, grad * grad_batch, None


class _InBatch:
    """The batch as keys of this rank's anchors; its negatives are added to the first sweep."""

    def __init__(self, negatives: Negatives, batch: Tensor, comparison: Comparison):
        self.similarity = negatives.scaled @ batch.T
        """s: [a, A]"""
        self.same = comparison.labels[comparison.here, None] == comparison.labels
        """Positives: bool [a, A]."""
        self.force = negatives.weigh(slice(None), self.similarity.clone(), self.same)
        """exp(s − shift) of negatives: [a, A]."""
        self.same.diagonal(comparison.here.start).fill_(False)  # the anchor itself
