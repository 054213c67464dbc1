"""Sums over keys that come in blocks: of the negatives their log-sum-exp, of the positives the loss."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.distributed import Group

_CHUNK = 1 << 19
"""Similarities computed at a time."""
_NOTHING = -1e30
"""The log-sum-exp of nothing: finite, so that no difference is NaN."""
_SLACK = 20.0
"""e^20 times a sum of millions is far from float32's end."""
_FLOOR = -80.0
"""Adds nothing to a sum of at least 1; exp of less is no normal float32, and 100 times slower on CPUs."""


class Block(NamedTuple):
    """Keys that some consecutive anchors are compared with."""

    anchors: slice
    """Which a of the anchors."""
    keys: Tensor
    """[k, D], of any floating dtype."""
    taken: Tensor | None = None
    """bool [a, k]: which anchor is compared with which key; None: each with all but the hidden."""
    hidden: Sequence[tuple[slice, slice]] = ()
    """Rectangles, of rows and columns of [a, k], that are not compared; no two share a column."""


class Classes(NamedTuple):
    """Anchors sorted by class: the labels that occur, and where their anchors lie."""

    labels: list[int]
    parts: list[slice]


def classes_of(labels: Tensor) -> Classes:
    """The runs of equal values in ascending labels."""
    values, counts = torch.unique_consecutive(labels, return_counts=True)
    ends = counts.cumsum(0).tolist()
    return Classes(values.tolist(), [slice(b, e) for b, e in zip([0, *ends][:-1], ends, strict=True)])


class Sweep:
    """Sums over the keys that come along, for anchors [a, D]."""

    def __init__(self, anchors: Tensor, temperature: float):
        self.temperature, self.scaled = temperature, anchors / temperature
        self.pull: Tensor = torch.zeros_like(anchors)
        self.weight = anchors.new_zeros(len(anchors))
        self.count = anchors.new_zeros(len(anchors))
        self.similarity = anchors.new_zeros(len(anchors))
        self._space = anchors.new_empty(max(_CHUNK, len(anchors)))

    def add(self, block: Block) -> None:
        """Add the block's keys to the sums of its anchors."""
        anchors = self.scaled[block.anchors]
        if len(anchors) == 0 or len(block.keys) == 0:
            return
        step = chunk_size(len(block.keys), len(anchors))
        for begin in range(0, len(block.keys), step):
            keys = block.keys[begin : begin + step].to(anchors.dtype)
            similarity = self._space[: len(anchors) * len(keys)].view(len(anchors), len(keys))
            torch.mm(anchors, keys.T, out=similarity)  # s_ik = i·k / τ: [a, k]
            taken = None if block.taken is None else block.taken[:, begin : begin + step]
            hidden = [
                (rows, similarity[rows, max(columns.start - begin, 0) : max(columns.stop - begin, 0)])
                for rows, columns in block.hidden
            ]
            self._count(block.anchors, similarity, taken, hidden)
            self._add(block.anchors, similarity, keys, taken, [part for _, part in hidden])

    def _count(
        self,
        anchors: slice,
        similarity: Tensor,
        taken: Tensor | None,
        hidden: list[tuple[slice, Tensor]],
    ) -> None:
        count, total = self.count[anchors], self.similarity[anchors]
        if taken is not None:
            met = taken.to(similarity.dtype)
            count += met.sum(dim=1)
            total += torch.linalg.vecdot(similarity, met)
            return
        count += similarity.shape[1]
        total += similarity.sum(dim=1)
        for rows, part in hidden:
            count[rows] -= part.shape[1]
            total[rows] -= part.sum(dim=1)

    def _add(
        self, anchors: slice, similarity: Tensor, keys: Tensor, taken: Tensor | None, hidden: list[Tensor]
    ) -> None:
        raise NotImplementedError

    @property
    def _sums(self) -> tuple[Tensor, ...]:
        return self.weight, self.count, self.similarity

    def reduce(self, group: Group, chosen: Tensor) -> None:
        """Add up all ranks' sums, and keep those of the anchors at ``chosen``."""
        table = torch.cat([self.pull, torch.stack(self._sums, dim=1)], dim=1)
        table = distributed.all_reduce(table, group)[chosen]
        self.pull = table[:, : self.pull.shape[1]].contiguous()
        self.weight, self.count, self.similarity = (column.clone() for column in table.T[-3:])
        self.scaled = self.scaled[chosen]


class Negatives(Sweep):
    """Log-sum-exp of similarities: Σ e^(s − shift) in ``weight``, Σ e^(s − shift)·key in ``pull``.

    The shift is a running maximum that may lag by ``_SLACK``, so that sums are seldom scaled anew.
    """

    def __init__(self, anchors: Tensor, temperature: float):
        super().__init__(anchors, temperature)
        self.shift = torch.full_like(self.weight, _NOTHING)

    def _add(
        self, anchors: slice, similarity: Tensor, keys: Tensor, taken: Tensor | None, hidden: list[Tensor]
    ) -> None:
        if taken is not None:
            similarity.masked_fill_(~taken, -torch.inf)
        for part in hidden:
            part.fill_(-torch.inf)
        self._raise_shift(anchors, similarity.amax(dim=1))
        similarity.sub_(self.shift[anchors, None])
        if taken is not None or 2 / self.temperature > -_FLOOR:  # unit vectors: s spans 2/τ
            similarity.clamp_(min=_FLOOR)
        for part in hidden:
            part.fill_(_FLOOR)
        weights = similarity.exp_()  # exp(s − shift): [a, k]
        self.weight[anchors] += weights.sum(dim=1)  # Σ_n exp(s_in − shift): [a]
        self.pull[anchors].addmm_(weights, keys)  # Σ_n exp(s_in − shift) n: [a, D]

    def _raise_shift(self, anchors: slice, maximum: Tensor) -> None:
        before = self.shift[anchors]
        shift = torch.where(maximum > before + _SLACK, maximum, before)
        if not torch.equal(shift, before):
            scale = (before - shift).exp_()  # from e^(s − before) to e^(s − shift): [a]
            self.weight[anchors] *= scale
            self.pull[anchors] *= scale[:, None]
            self.shift[anchors] = shift

    def reduce(self, group: Group, chosen: Tensor) -> None:
        shift = self.shift.clone()
        if distributed.world_size(group) > 1:
            dist.all_reduce(shift, dist.ReduceOp.MAX, group=group)
        scale = (self.shift - shift).exp_()  # every rank's sums to the largest shift of all
        self.weight *= scale
        self.pull *= scale[:, None]
        self.shift = shift[chosen]
        super().reduce(group, chosen)

    @property
    def log_sum(self) -> Tensor:
        """L: [a]."""
        return self.shift + self._safe_weight.log()

    @property
    def mean(self) -> Tensor:
        """The gradient of L in the anchor, times τ: [a, D]."""
        return self.pull / self._safe_weight[:, None]

    @property
    def _safe_weight(self) -> Tensor:
        smallest = torch.finfo(self.pull.dtype).tiny
        return torch.clamp(self.weight, min=smallest)


class Positives(Sweep):
    """Σ softplus(L − s) in ``loss``; of its slopes, σ(L − s), Σ σ in ``weight`` and Σ σ·key in ``pull``."""

    def __init__(self, anchors: Tensor, log_sum: Tensor, temperature: float):
        super().__init__(anchors, temperature)
        self.log_sum, self.loss = log_sum, torch.zeros_like(self.weight)

    def _add(
        self, anchors: slice, similarity: Tensor, keys: Tensor, taken: Tensor | None, hidden: list[Tensor]
    ) -> None:
        assert not hidden
        excess = torch.sub(self.log_sum[anchors, None], similarity, out=similarity)  # L − s: [a, k]
        loss, slope = F.softplus(excess), torch.sigmoid(excess)  # ℓ of each pair, and −∂ℓ/∂s
        if taken is not None:
            loss, slope = loss * taken, slope * taken
        self.loss[anchors] += loss.sum(dim=1)  # Σ_p softplus(L − s_ip): [a]
        self.weight[anchors] += slope.sum(dim=1)  # Σ_p σ(L − s_ip): [a]
        self.pull[anchors].addmm_(slope, keys)  # Σ_p σ(L − s_ip) p: [a, D]

    def reduce(self, group: Group, chosen: Tensor) -> None:
        self.log_sum = self.log_sum[chosen]
        self.loss = distributed.all_reduce(self.loss, group)[chosen]
        super().reduce(group, chosen)


def chunk_size(keys: int, anchors: int) -> int:
    """Keys at a time, so that the chunks are about equally large."""
    most = max(_CHUNK // max(anchors, 1), 1)
    return max(math.ceil(keys / math.ceil(keys / most)), 1) if keys else 1
