"""Which examples of the memory an anchor is compared with: example mining (paper, Sec. 3.3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast.hyperparameters import Mining, NegativeMining
from pixelcontrast.contrast.memory import Examples, Run
from pixelcontrast.contrast.sampling import ceil_share
from pixelcontrast.contrast.sweeps import Block, Classes

_MOST_SIMILARITIES = 1 << 24
"""Held at a time, to find the hardest."""
_MOST_ROWS = 1 << 13
"""Copied at a time out of the memory."""
_SHORT = 1 << 10
"""Runs of fewer rows are copied together: a matrix product with few is slow."""


class ClassSums(NamedTuple):
    """The anchors of the global batch, summed by class."""

    sums: Tensor
    """[num_classes, D]"""
    counts: Tensor
    """int64 [num_classes]"""

    @classmethod
    def of(cls, batch: Tensor, labels: Tensor, num_classes: int) -> "ClassSums":
        """Sum rows [A, D] by their labels int64 [A]."""
        member = F.one_hot(labels, num_classes)  # [A, num_classes]
        return cls(member.T.to(batch.dtype) @ batch, member.sum(dim=0))

    def mean_similarity(self, anchors: Tensor, classes: Classes) -> Tensor:
        """[a]: of anchors [a, D] with the others of their class; +∞ where there is no other."""
        sizes = torch.tensor([part.stop - part.start for part in classes.parts], device=anchors.device)
        labels = torch.tensor(classes.labels, device=anchors.device).repeat_interleave(sizes)
        others = self.counts[labels] - 1  # |P| in the batch, without the anchor itself: [a]
        total = torch.linalg.vecdot(anchors, self.sums[labels] - anchors)  # Σ_p i·p: [a]
        return torch.where(others > 0, total / others.clamp(min=1), torch.inf)


@dataclass(frozen=True)
class Miner:
    """Chooses positives or negatives in the memory, for anchors [a, D] sorted by class.

    Random examples are the first in the step's order (``Examples.order``), which all anchors share. The
    hardest are the least similar positives and the most similar negatives; ties at the cutoff are all taken.
    What is chosen among n candidates in the memory:

    - ``all``: all n; ``random``: K of n.
    - ``filtered``, for negatives: of K random ones those whose similarity with the anchor is less than the
      mean similarity of its positives in the batch plus ``margin`` (after FaceNet, Schroff et al., CVPR 2015,
      Sec. 3.2); all K where the batch has no positive.
    - ``hardest``: the K hardest of n.
    - ``semi-hard``: K random ones of the ⌈share · n⌉ hardest, each equally likely (10 % in the paper).
    - ``semi-hard-subset``: the ⌈share · m⌉ hardest of m = ⌈K / share⌉ random ones, which are about K. An
      example is in with the probability m/n · P(fewer than ⌈share · m⌉ harder ones are drawn): nearly
      m/n for those well within the pool of ``semi-hard``, as there, and 0 for those well outside; the edge
      between is about n · √(share · (1 − share) / m) ranks wide. It compares the anchor with m rows, not n.

    Fewer than K candidates are all taken. A memory in W shards chooses ⌈K / W⌉ in each by the same rule: a
    draw stratified by shards, not that of a memory in one piece.

    Args:
        num: K, in this rank's part of the memory.
        share: for ``semi-hard`` and ``semi-hard-subset``.
        margin: for ``filtered``.
    """

    mining: NegativeMining
    num: int
    share: float
    margin: float = 0.0

    def positives(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[Block]:
        """Blocks of the positives of all anchors."""
        for label, part in zip(classes.labels, classes.parts, strict=True):
            runs = [run for run in examples.runs if run.label == label]
            match self.mining:
                case "all":
                    yield from (Block(part, run.rows) for run in runs)
                case "random" | "filtered":
                    yield Block(part, examples.rows(examples.first(label, self.num)))
                case "semi-hard-subset":
                    rows = examples.rows(examples.first(label, self._subset))
                    yield self._hard_block(anchors, part, rows, sign=1)
                case "hardest" | "semi-hard":
                    yield from self._hard_positives(anchors, part, runs, examples)

    def negatives(
        self, anchors: Tensor, classes: Classes, examples: Examples, in_batch: ClassSums | None = None
    ) -> Iterator[Block]:
        """Blocks of the negatives of all anchors; ``in_batch`` is needed where they are ``filtered``."""
        if not classes.labels:
            return
        if self.mining == "all":
            yield from _all_negatives(classes, examples)
        elif self.mining == "filtered":
            assert in_batch is not None
            limit = in_batch.mean_similarity(anchors, classes) + self.margin
            for block in self._drawn_negatives(anchors, classes, examples):
                assert block.taken is not None
                # s_in < mean_p s_ip + margin: bool [a, K]
                below = anchors @ block.keys.to(anchors.dtype).T < limit[:, None]
                yield block._replace(taken=block.taken & below)
        elif self.mining in ("random", "semi-hard-subset"):
            yield from self._drawn_negatives(anchors, classes, examples)
        else:
            yield from self._hard_negatives(anchors, classes, examples)

    def _hard_positives(
        self, anchors: Tensor, part: slice, runs: list[Run], examples: Examples
    ) -> Iterator[Block]:
        if not runs:
            return
        numbers = torch.cat([torch.arange(run.first, run.first + len(run.rows)) for run in runs])
        numbers = numbers.to(anchors.device)
        order = _places(numbers, examples) if self._pool(len(numbers)) > self.num else None
        for few in _split(part, _MOST_SIMILARITIES // len(numbers)):
            distance = _products(anchors[few], runs)  # s_ip [few, n]: the smallest are the hardest
            limit = _kth_smallest(distance, self._pool(len(numbers)))  # the pool's last [few, 1]
            yield from self._chosen(few, distance, limit, numbers, order, examples)

    def _hard_negatives(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[Block]:
        numbers = torch.arange(len(examples), device=anchors.device)
        front = front_rows = None
        if self._pool(len(examples)) > self.num:
            # The pool is spread evenly over the order, so its first K seldom lie much further back than this.
            front = examples.order[: math.ceil(1.3 * self._subset)]
            front_rows = examples.rows(front)
        for few in _split(slice(0, len(anchors)), _MOST_SIMILARITIES // max(len(examples), 1)):
            distance = _products(-anchors[few], examples.runs)  # −s_in [few, n]: the smallest are the hardest
            pools = _hide_own_class(distance, few, classes, examples)
            # Per class its own pool, as classes have different numbers of negatives: [few, 1].
            limit = torch.cat([_kth_smallest(distance[part], self._pool(n)) for part, n in pools])
            wanted = [min(self.num, self._pool(n)) for part, n in pools for _ in distance[part]]
            if front is not None and front_rows is not None:
                # The first K of the pool in the step's order, if the front of the order holds them all.
                taken, found = self._first(distance.index_select(1, front) <= limit)
                if bool((found >= found.new_tensor(wanted)).all()):
                    yield Block(few, front_rows, taken)
                    continue
            order = examples.order if any(self._pool(n) > self.num for _, n in pools) else None
            yield from self._chosen(few, distance, limit, numbers, order, examples)

    def _chosen(
        self,
        few: slice,
        distance: Tensor,
        limit: Tensor,
        numbers: Tensor,
        order: Tensor | None,
        examples: Examples,
    ) -> Iterator[Block]:
        """Examples ``numbers`` [n], the columns of ``distance``, within the limit: all, or K by ``order``."""
        if order is None:
            taken = distance <= limit  # the whole pool
        else:  # the first K of the pool in the step's order
            taken, _ = self._first(distance.index_select(1, order) <= limit)
            numbers = numbers[order]
        for columns in torch.nonzero(taken.any(dim=0)).squeeze(1).split(_MOST_ROWS):
            yield Block(few, examples.rows(numbers[columns]), taken.index_select(1, columns))

    def _first(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the first K marks of every row of bool [a, n]; also count all marks, int32 [a]."""
        number = marked.cumsum(dim=1, dtype=torch.int32)
        return marked & (number <= self.num), number[:, -1]

    def _drawn_negatives(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[Block]:
        """Take the first negatives in the step's order; all anchors share the copied rows."""
        num = self._subset if self.mining == "semi-hard-subset" else self.num
        numbers, allowed = _first_others(classes, examples, num)
        if self.mining != "semi-hard-subset":
            sizes = torch.tensor([part.stop - part.start for part in classes.parts], device=anchors.device)
            taken = allowed.repeat_interleave(sizes, dim=0)
            yield Block(slice(0, len(anchors)), examples.rows(numbers), taken)
            return
        rows = examples.rows(numbers)
        for part, candidates in zip(classes.parts, allowed, strict=True):
            yield self._hard_block(anchors, part, rows, sign=-1, candidates=candidates)

    def _hard_block(
        self, anchors: Tensor, part: slice, rows: Tensor, *, sign: int, candidates: Tensor | None = None
    ) -> Block:
        """The hardest share of rows [m, D], or of those of them that ``candidates`` [m] marks."""
        distance = sign * anchors[part] @ rows.to(anchors.dtype).T  # [a, m]: the smallest are the hardest
        count = len(rows)
        if candidates is not None:
            distance.masked_fill_(~candidates, torch.inf)
            count = int(candidates.sum())
        if count == 0:
            return Block(part, rows[:0])
        return Block(part, rows, distance <= _kth_smallest(distance, ceil_share(count, self.share)))

    @property
    def _subset(self) -> int:
        return math.ceil(self.num / self.share)

    def _pool(self, candidates: int) -> int:
        return min(self.num, candidates) if self.mining == "hardest" else ceil_share(candidates, self.share)


def build_miners(mining: Mining, *, parts: int) -> tuple[Miner, Miner]:
    """The miners of positives and of negatives in one of the ``parts`` of a memory."""
    num_positives, num_negatives = (-(-num // parts) for num in (mining.num_positives, mining.num_negatives))
    share, margin = mining.semi_hard_share, mining.negative_margin
    return (
        Miner(mining.positive_mining, num_positives, share),
        Miner(mining.negative_mining, num_negatives, share, margin),
    )


def _all_negatives(classes: Classes, examples: Examples) -> Iterator[Block]:
    """Blocks of all anchors and whole runs, in which the anchors' own class is hidden; short runs in one."""
    everyone = slice(0, classes.parts[-1].stop)
    own = dict(zip(classes.labels, classes.parts, strict=True))
    runs, hidden, length = [], [], 0
    for run in examples.runs:
        if run.label in own:
            hidden.append((own[run.label], slice(length, length + len(run.rows))))
        runs.append(run.rows)
        length += len(run.rows)
        if length >= _SHORT or run is examples.runs[-1]:
            yield Block(everyone, torch.cat(runs) if len(runs) > 1 else run.rows, hidden=hidden)
            runs, hidden, length = [], [], 0


def _first_others(classes: Classes, examples: Examples, num: int) -> tuple[Tensor, Tensor]:
    """For each class the first ``num`` examples of other classes in the step's order, or all there are.

    Returns:
        numbers int64 [m] of their union, and bool [classes, m]: whose they are.
    """
    labels = torch.tensor(classes.labels, device=examples.labels.device)[:, None]
    most = min(2 * num, len(examples))
    while True:
        order = examples.order[:most]
        others = examples.labels[order] != labels
        if most == len(examples) or int(others.sum(dim=1).min()) >= num:
            break
        most = min(2 * most, len(examples))
    others &= others.cumsum(dim=1, dtype=torch.int32) <= num  # each class its first num, in one row
    columns = torch.nonzero(others.any(dim=0)).squeeze(1)
    return order[columns], others[:, columns]


def _split(part: slice, most: int) -> Iterator[slice]:
    """Slices of at most ``most`` that make up ``part``, and of at least 1."""
    for begin in range(part.start, part.stop, max(most, 1)):
        yield slice(begin, min(begin + max(most, 1), part.stop))


def _products(anchors: Tensor, runs: list[Run]) -> Tensor:
    """Anchors [a, D] times the rows of all runs: [a, n]."""
    products = anchors.new_empty(len(anchors), sum(len(run.rows) for run in runs))
    begin = 0
    for run in runs:
        for rows in run.rows.split(_MOST_ROWS):
            torch.mm(anchors, rows.to(anchors.dtype).T, out=products[:, begin : begin + len(rows)])
            begin += len(rows)
    return products


def _hide_own_class(
    distance: Tensor, few: slice, classes: Classes, examples: Examples
) -> list[tuple[slice, int]]:
    """Set the distance of an anchor's own class to ∞; returns rows and candidates of each class."""
    found = []
    for label, part in zip(classes.labels, classes.parts, strict=True):
        rows = slice(max(part.start, few.start) - few.start, min(part.stop, few.stop) - few.start)
        if rows.start < rows.stop:
            own = [run for run in examples.runs if run.label == label]
            for run in own:
                distance[rows, run.first : run.first + len(run.rows)] = torch.inf
            found.append((rows, len(examples) - sum(len(run.rows) for run in own)))
    return found


def _places(numbers: Tensor, examples: Examples) -> Tensor:
    """Where in ``numbers`` the examples lie, in the step's order, that are among them."""
    place = torch.full((len(examples),), -1, device=numbers.device)
    place[numbers] = torch.arange(len(numbers), device=numbers.device)
    ordered = place[examples.order]
    return ordered[ordered >= 0]


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """[n, m] → [n, 1], −∞ for k = 0. numpy's selection is several times faster than torch's on a CPU."""
    if k == 0:
        return values.new_full((len(values), 1), -torch.inf)
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=1)[:, k - 1 : k].copy())
    return values.topk(k, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
