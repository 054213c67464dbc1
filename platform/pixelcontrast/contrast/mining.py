"""Which examples of the memory an anchor is compared with: example mining (paper, Sec. 3.3)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelcontrast.contrast.hyperparameters import ExampleMining, MiningConfig
from pixelcontrast.contrast.memory import Examples
from pixelcontrast.contrast.sampling import Table, ceil_share, ceil_shares
from pixelcontrast.contrast.sweeps import (
    Block,
    ClassBlock,
    Classes,
    Pairs,
    most_similarities,
    overlap,
    split,
    within,
)

_CPU_HELD, _GPU_HELD = 1 << 24, 1 << 28
"""Similarities held at a time, to find the hardest."""
_MOST_ROWS = 1 << 13
"""Copied at a time out of the memory, on a CPU."""


@dataclass(frozen=True)
class Miner:
    """Chooses positives or negatives in the memory, for anchors [a, D] sorted by class.

    Random examples are the first in the step's order (``Examples.order``), which all anchors share. The
    hardest are the least similar positives and the most similar negatives; ties at the cutoff are all taken.
    What is chosen among n candidates in the memory:

    - ``all``: all n; ``random``: K of n.
    - ``hardest``: the K hardest of n.
    - ``semi-hard``: K random ones of the ⌈share · n⌉ hardest, each equally likely (10 % in the paper).
    - ``semi-hard-subset``: the ⌈share · m⌉ hardest of m = ⌈K / share⌉ random ones, which are about K. An
      example is in with the probability m/n · P(fewer than ⌈share · m⌉ harder ones are drawn): nearly
      m/n for those well within the pool of ``semi-hard``, as there, and 0 for those well outside; the edge
      between is about n · √(share · (1 − share) / m) ranks wide. It compares the anchor with m rows, not n.

    A GPU is waited for once with ``random`` and ``semi-hard-subset``, to know how far the order is looked at,
    and never with ``all``. ``hardest`` and ``semi-hard`` are slow there: they wait up to twice for each
    2^28 / n anchors.

    Fewer than K candidates are all taken. A memory in W shards chooses ⌈K / W⌉ in each by the same rule: a
    draw stratified by shards, not that of a memory in one piece.

    Args:
        num: K, in this rank's part of the memory.
        share: for ``semi-hard`` and ``semi-hard-subset``.
    """

    mining: ExampleMining
    num: int
    share: float

    def positives(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[ClassBlock]:
        """Blocks of the positives of all anchors."""
        if self.mining == "all" and anchors.device.type == "cpu":
            yield from _all_positives(classes, examples)
            return
        most = {"random": self.num, "semi-hard-subset": self._subset}.get(self.mining, len(examples))
        of_classes = examples.first_of_classes(most)
        table = Table(*(part[classes.present] for part in of_classes))
        most = table.rows.shape[1]
        if most == 0 or not classes.labels:
            return
        held = most_similarities(anchors.device) // (max(classes.counts) * most)
        copied = _MOST_ROWS // most if anchors.device.type == "cpu" else held
        for few in split(len(classes.labels), min(held, copied)):
            keys, taken = examples.rows(table.rows[few]), table.taken[few, None]
            if self.mining not in ("all", "random"):
                numbers, _ = classes.table(few)
                distance = anchors[numbers] @ keys.to(anchors.dtype).mT  # s_ip: the smallest are the hardest
                counts = [min(examples.of_class[label], most) for label in classes.labels[few]]
                distance.masked_fill_(~taken, torch.inf)
                taken = self._hard(distance, taken.sum(dim=-1, keepdim=True), counts)
                if self._draws(counts):
                    taken, _ = self._first(taken)
            yield ClassBlock(few, keys, taken)

    def negatives(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[Block]:
        """Blocks of the negatives of all anchors."""
        if not classes.labels or not len(examples):
            return
        match self.mining:
            case "all":
                yield from _all_negatives(classes, examples, most_similarities(anchors.device))
            case "random":
                numbers, taken = _first_others(classes, examples, self.num)
                yield Block(slice(0, len(anchors)), examples.rows(numbers), taken.index_select(0, classes.of))
            case "semi-hard-subset":
                yield from self._hard_of_drawn(anchors, classes, examples)
            case "hardest" | "semi-hard":
                yield from self._hard_of_all(anchors, classes, examples)

    def _hard_of_drawn(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[Block]:
        numbers, allowed = _first_others(classes, examples, self._subset)
        rows = examples.rows(numbers)
        counts = [min(self._subset, count) for count in _others(classes, examples)]
        found, left_out = allowed.sum(dim=1), ~allowed
        for few in split(len(anchors), _held(anchors) // len(numbers)):
            distance = (-anchors[few]) @ rows.to(anchors.dtype).T  # −s_in: the smallest are the hardest
            distance.masked_fill_(left_out.index_select(0, classes.of[few]), torch.inf)
            yield Block(few, rows, self._hard(distance, found[classes.of[few], None], counts))

    def _hard_of_all(self, anchors: Tensor, classes: Classes, examples: Examples) -> Iterator[Block]:
        counts, positives = _others(classes, examples), _positives(classes, examples)
        others = torch.tensor(counts, device=anchors.device)[classes.of, None]
        few_at_a_time = max(_held(anchors) // len(examples), 1)
        space = anchors.new_empty(min(few_at_a_time, len(anchors)), len(examples))

        def mark(few: slice, columns: Tensor) -> Tensor:
            """Mark what is in the pools of these anchors among these examples: bool [few, n]."""
            distance = _products(-anchors[few], examples, space)  # −s_in: the smallest are the hardest
            for pairs in positives:
                if own := overlap(pairs.anchors, few):
                    distance[own, pairs.keys] = torch.inf
            return self._hard(distance, others[few], counts, distance.index_select(1, columns))

        if not self._draws(counts):
            everyone = torch.arange(len(examples), device=anchors.device)
            for few in split(len(anchors), few_at_a_time):
                yield from _chosen(few, mark(few, everyone), everyone, examples)
            return
        # The pool is spread evenly over the order, so its first K seldom lie much further back than this.
        front = examples.front(math.ceil(1.3 * self._subset))
        rows, sure = examples.rows(front), self._pool(min(counts)) >= self.num
        for few in split(len(anchors), few_at_a_time):
            if sure:
                taken, found = self._first(mark(few, front))
                if bool((found >= self.num).all()):
                    yield Block(few, rows, taken)
                    continue
            taken, _ = self._first(mark(few, examples.order))
            yield from _chosen(few, taken, examples.order, examples)

    def _hard(
        self, distance: Tensor, found: Tensor, counts: Sequence[int], asked: Tensor | None = None
    ) -> Tensor:
        """Mark the pool that is drawn from, of distances [*, n] the smallest: bool [*, n].

        Args:
            distance: +∞ for what is no candidate.
            found: int64, broadcastable to [*, 1]: how many candidates each row has.
            counts: the values that these may have.
            asked: [*, m], the distances that are marked instead of all; ``distance`` is then no longer
                needed, and may be reordered.
        """
        if asked is None:
            asked, distance = distance, distance.clone() if distance.device.type == "cpu" else distance
        pools = found.clamp(max=self.num) if self.mining == "hardest" else ceil_shares(found, self.share)
        pools = pools.expand(*distance.shape[:-1], 1)
        return asked <= _kth_smallest(distance, pools, max(map(self._pool, counts)))

    def _first(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the first K marks of every row of bool [*, n]; also count all marks, int32 [*]."""
        number = marked.cumsum(dim=-1, dtype=torch.int32)
        return marked & (number <= self.num), number[..., -1]

    def _draws(self, counts: Sequence[int]) -> bool:
        """Whether some pool, of so many candidates, has more than K examples to draw from."""
        return self.mining == "semi-hard" and self._pool(max(counts)) > self.num

    def _pool(self, candidates: int) -> int:
        return min(self.num, candidates) if self.mining == "hardest" else ceil_share(candidates, self.share)

    @property
    def _subset(self) -> int:
        return math.ceil(self.num / self.share)


def build_miners(mining: MiningConfig, *, parts: int) -> tuple[Miner, Miner]:
    """The miners of positives and of negatives in one of the ``parts`` of a memory."""
    num_positives, num_negatives = (-(-num // parts) for num in (mining.num_positives, mining.num_negatives))
    return (
        Miner(mining.positive_mining, num_positives, mining.semi_hard_share),
        Miner(mining.negative_mining, num_negatives, mining.semi_hard_share),
    )


def _all_positives(classes: Classes, examples: Examples) -> Iterator[ClassBlock]:
    for number, label in enumerate(classes.labels):
        for own in examples.of_one_class(label):
            yield ClassBlock(slice(number, number + 1), examples.side_by_side(own)[None], None)


def _all_negatives(classes: Classes, examples: Examples, most: int) -> Iterator[Block]:
    everyone = slice(0, len(classes.of))
    on_cpu = examples.labels.device.type == "cpu"  # a GPU is slower to start an operation per class
    positives, labels = _positives(classes, examples) if on_cpu else [], classes.present[classes.of, None]
    for begin, rows in examples.pieces(max(most // len(classes.of), 1)):
        part = slice(begin, begin + len(rows))
        if on_cpu:
            yield Block(everyone, rows, None, within(positives, part))
        else:
            yield Block(everyone, rows, examples.labels[part] != labels)


def _first_others(classes: Classes, examples: Examples, num: int) -> tuple[Tensor, Tensor]:
    """For each class the first ``num`` examples of other classes in the step's order, or all there are.

    Returns:
        numbers int64 [m] of which their union is a part, and bool [classes, m]: whose they are.
    """
    most = min(2 * num, len(examples))
    while True:
        front = examples.front(most)
        others = examples.labels[front] != classes.present[:, None]
        number = others.cumsum(dim=1, dtype=torch.int32)
        needed = int((number < num).sum(dim=1).max()) + 1  # the first num of every class are within
        if needed <= most or most == len(examples):
            return front[:needed], (others & (number <= num))[:, :needed]
        most = min(2 * most, len(examples))


def _positives(classes: Classes, examples: Examples) -> list[Pairs]:
    """Each class's anchors, and the examples of their class in each bank."""
    return [
        Pairs(classes.anchors(slice(number, number + 1)), own)
        for number, label in enumerate(classes.labels)
        for own in examples.of_one_class(label)
    ]


def _others(classes: Classes, examples: Examples) -> list[int]:
    """How many negatives each class has."""
    return [len(examples) - examples.of_class[label] for label in classes.labels]


def _held(anchors: Tensor) -> int:
    return _CPU_HELD if anchors.device.type == "cpu" else _GPU_HELD


def _products(anchors: Tensor, examples: Examples, space: Tensor) -> Tensor:
    """Anchors [a, D] times all examples, in ``space``: [a, n]."""
    products = space[: len(anchors)]
    for begin, rows in examples.pieces(_MOST_ROWS if anchors.device.type == "cpu" else len(examples)):
        torch.mm(anchors, rows.to(anchors.dtype).T, out=products[:, begin : begin + len(rows)])
    return products


def _chosen(few: slice, taken: Tensor, numbers: Tensor, examples: Examples) -> Iterator[Block]:
    """Blocks of the examples ``numbers`` [n], the columns of ``taken``, that any anchor takes. Waits."""
    for columns in torch.nonzero(taken.any(dim=0)).squeeze(1).split(_MOST_ROWS):
        yield Block(few, examples.rows(numbers[columns]), taken.index_select(1, columns))


def _kth_smallest(values: Tensor, k: Tensor, most: int) -> Tensor:
    """Find in each row of [*, n] the k-th smallest value, k int64 [*, 1] up to ``most``; −∞ for k = 0.

    On a CPU the values are reordered.
    """
    places = (k - 1).clamp(min=0)
    if values.device.type == "cpu":  # numpy's selection is several times faster than torch's
        values.numpy().partition(places.unique().tolist(), axis=-1)
        smallest = values
    else:
        smallest = values.topk(max(most, 1), largest=False).values
    return smallest.gather(-1, places).masked_fill_(k == 0, -torch.inf)
