"""InfoNCE of anchors against any number of keys, in memory that does not grow with their number.

Eq. 3 (Wang et al., ICCV 2021) of an anchor i with positives P and negatives N is

    ℓ_i = 1/|P| Σ_p softplus(L_i − s_ip),   L_i = log Σ_n exp(s_in),   s_ik = i·k / τ

so there are two sweeps over the keys: over the negatives for L, then over the positives for ℓ. Each also sums
the keys with the weights that the gradient needs, so backward recomputes nothing. Keys come in blocks.
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
class Comparison:
    """Which keys each anchor is compared with.

    Where ``in_batch``, with all other anchors of the global batch: those of its class are positives, the
    others negatives. ``positives`` and ``negatives`` give further keys, those of the memory.
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
    """Whether ``positives`` and ``negatives`` are one of W parts, and each part is compared with the anchors
    of all ranks."""
    group: Group = None


class Similarities(NamedTuple):
    """Counts and sums of cosines of this rank's anchors, each [a], with the keys of one source."""

    positives: Tensor
    """Number of positives of every anchor."""
    positive_sum: Tensor
    """Sum of the cosines with them."""
    negatives: Tensor
    negative_sum: Tensor


class Compared(NamedTuple):
    """The keys that the anchors of this rank were compared with, in the memory and in the batch."""

    memory: Similarities
    batch: Similarities


def info_nce(anchors: Tensor, batch: Tensor, comparison: Comparison) -> tuple[Tensor, Compared]:
    """Sum of Eq. 3 (Wang et al., ICCV 2021) over this rank's anchors, with gradient to both arguments.

    Collective where the comparison is ``sharded``: call it on every rank. Blocks are only read while it runs.

    Args:
        anchors: [a, D], this rank's; float32 or float64, of unit length.
        batch: [A, D], those of all ranks; ``batch[comparison.here]`` are the anchors.

    Returns:
        A scalar, and counts and similarities of the keys.
    """
    total, *sums = _InfoNCE.apply(anchors, batch, comparison)  # type: ignore[misc]
    return total, Compared(Similarities(*sums[:4]), Similarities(*sums[4:]))


def no_blocks(anchors: Tensor, classes: Classes) -> Iterator[Block]:
    """The keys of an empty memory."""
    del anchors, classes
    return iter(())


class _Rows(NamedTuple):
    """The anchors that are compared with this rank's memory: its own, or, where it is sharded, all ranks'."""

    rows: Tensor
    """Sorted by class."""
    classes: Classes
    order: Tensor | None = None
    """int64 [A]: places of the sorted anchors in the global batch; None for this rank's own."""

    def own(self, comparison: Comparison) -> Tensor:
        """Places of this rank's anchors among ``rows``."""
        assert self.order is not None
        return torch.argsort(self.order)[comparison.here]


def _rows(own: Tensor, batch: Tensor, comparison: Comparison) -> _Rows:
    if not comparison.sharded:
        return _Rows(own, classes_of(comparison.labels[comparison.here]))
    order = torch.argsort(comparison.labels, stable=True)
    return _Rows(batch[order], classes_of(comparison.labels[order]), order)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, batch: Tensor, comparison: Comparison) -> tuple[Tensor, ...]:
        own, batch, tau = own.detach(), batch.detach(), comparison.temperature
        same, other = _in_batch(comparison)  # bool [a, A]
        rows, classes, order = compared = _rows(own, batch, comparison)

        # First sweep, over the negatives: L [a], and n̄ = Σ_n softmax(s_in) n [a, D].
        negatives = Negatives(rows, tau)
        for block in comparison.negatives(rows, classes):
            negatives.add(block)
        if order is not None:
            negatives.reduce(comparison.group, compared.own(comparison))
        memory = [negatives.count.clone(), negatives.similarity.clone()]
        if comparison.in_batch:
            negatives.add(Block(slice(None), batch, other))
        log_sum = negatives.log_sum
        if order is not None:
            log_sum = distributed.all_gather_rows(log_sum, comparison.group, counts=comparison.counts)[order]

        # Second sweep, over the positives: Σ_p softplus(L − s_ip) [a], Σ_p σ(L − s_ip) [a] and its sum of p.
        positives = Positives(rows, log_sum, tau)
        for block in comparison.positives(rows, classes):
            positives.add(block)
        if order is not None:
            positives.reduce(comparison.group, compared.own(comparison))
        memory = [positives.count.clone(), positives.similarity.clone(), *memory]
        if comparison.in_batch:
            positives.add(Block(slice(None), batch, same))

        # ∂ℓ/∂i = (∂ℓ/∂L · n̄ − 1/|P| Σ_p σ(L − s_ip) p) / τ, with ∂ℓ/∂L = 1/|P| Σ_p σ(L − s_ip).
        share = positives.count.clamp(min=1).reciprocal()  # 1/|P|
        slope = positives.weight * share  # ∂ℓ/∂L
        grad_own = (slope[:, None] * negatives.mean - share[:, None] * positives.pull) / tau
        grad_batch = torch.zeros_like(batch)
        if comparison.in_batch:
            _add_key_gradient(grad_batch, negatives, positives, batch, same, other)
        ctx.save_for_backward(grad_own, grad_batch)

        everything = [positives.count, positives.similarity, negatives.count, negatives.similarity]
        units = [1.0, tau, 1.0, tau]  # similarities were summed over τ
        sums = [part * unit for part, unit in zip(memory, units, strict=True)]
        sums += [(whole - part) * u for whole, part, u in zip(everything, memory, units, strict=True)]
        ctx.mark_non_differentiable(*sums)
        return (positives.loss * share).sum(), *sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        grad_own, grad_batch = ctx.saved_tensors
        return grad * grad_own, grad * grad_batch, None


def _in_batch(comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Positives and negatives of this rank's anchors in the batch, without themselves: bool [a, A]."""
    other = comparison.labels[comparison.here, None] != comparison.labels
    same = ~other
    numbers = torch.arange(len(same), device=same.device)
    same[numbers, numbers + comparison.here.start] = False
    return same, other


def _add_key_gradient(
    grad: Tensor, negatives: Negatives, positives: Positives, batch: Tensor, same: Tensor, other: Tensor
) -> None:
    """Add to ``grad`` [A, D] the gradient of Σ ℓ_i in the batch's anchors as keys.

    ∂ℓ_i/∂n = ∂ℓ_i/∂L_i · exp(s_in − L_i) · i/τ for a negative, ∂ℓ_i/∂p = −1/|P| σ(L_i − s_ip) · i/τ for a
    positive.
    """
    share = positives.count.clamp(min=1).reciprocal()[:, None]  # 1/|P|: [a, 1]
    slope = positives.weight[:, None] * share  # ∂ℓ/∂L: [a, 1]
    step = max(
        chunk_size(len(batch), len(negatives.scaled)) // 4, 1
    )  # several of this size are alive at once
    for begin in range(0, len(batch), step):
        part = slice(begin, begin + step)
        excess = negatives.scaled @ batch[part].T  # s: [a, step]
        excess.sub_(negatives.log_sum[:, None])  # s − L
        weight = torch.sigmoid(-excess).mul_(-share).masked_fill_(~same[:, part], 0)
        weight += excess.exp_().mul_(slope).masked_fill_(~other[:, part], 0)
        grad[part] += weight.T @ negatives.scaled  # scaled is i/τ
