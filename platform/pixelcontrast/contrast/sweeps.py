"""Sums over keys that come in blocks: of the negatives their log-sum-exp, of the positives the loss."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.contrast.sampling import place_in_run
from pixelcontrast.distributed import Group

_CPU_CHUNK, _GPU_CHUNK = 1 << 19, 1 << 28
"""Similarities computed at a time: what fits a CPU's cache; 1 GB on a GPU, which is slow to start a block."""
_ALIGNED = 16
"""Floats in 64 bytes: an AMD CPU is up to 1.7 times slower at products whose rows do not begin at such."""
_NOTHING = -1e30
"""The log-sum-exp of nothing: finite, so that no difference is NaN."""
_FLOOR = -80.0
"""Adds nothing to a sum of at least 1; exp of less is no normal float32, and 100 times slower on CPUs."""
_MOST = 40.0
"""e to this and e to minus this are far within float32, and so is any sum of them."""


class Pairs(NamedTuple):
    """Consecutive anchors and consecutive keys, each with each."""

    anchors: slice
    keys: slice


class Block(NamedTuple):
    """Keys that some consecutive anchors are compared with."""

    anchors: slice
    """Which a of the anchors."""
    keys: Tensor
    """[k, D], of any floating dtype."""
    taken: Tensor | None
    """bool [a, k]: which anchor is compared with which key; None: each, but for ``left_out``."""
    left_out: Sequence[Pairs] = ()
    """Which are not compared."""


class ClassBlock(NamedTuple):
    """Keys that the anchors of some consecutive classes are compared with, of each class its own."""

    classes: slice
    """Which g of ``Classes.labels``."""
    keys: Tensor
    """[g, k, D], of any floating dtype."""
    taken: Tensor | None
    """bool [g, 1, k], or [g, most, k] with a row for every place of ``Classes.table``; None: all."""


class Classes(NamedTuple):
    """Anchors [a, D] sorted by class."""

    labels: list[int]
    """The classes that occur, g of them."""
    counts: list[int]
    """The anchors of each."""
    of: Tensor
    """int64 [a]: each anchor's class, as an index into ``labels``."""
    place: Tensor
    """int64 [a]: its place among those of its class."""
    first: Tensor
    """int64 [g]: each class's first anchor."""
    present: Tensor
    """int64 [g]: ``labels``"""

    def anchors(self, classes: slice) -> slice:
        """The anchors of some classes."""
        return slice(sum(self.counts[: classes.start]), sum(self.counts[: classes.stop]))

    def table(self, classes: slice) -> tuple[Tensor, Tensor]:
        """Anchors class by class, padded: their numbers int64 [g, most]; and where each is, int64 [a]."""
        most, part = max(self.counts[classes]), self.anchors(classes)
        numbers = self.first[classes, None] + torch.arange(most, device=self.of.device)
        where = (self.of[part] - classes.start) * most + self.place[part]
        return numbers.clamp(max=len(self.of) - 1), where


def classes_of(labels: Tensor, of_class: Sequence[int]) -> Classes:
    """The classes of ascending labels int64 [a], of which there are ``of_class``."""
    present = [label for label, count in enumerate(of_class) if count]
    place = place_in_run(labels)
    begins = place == 0
    first = torch.nonzero_static(begins, size=len(present)).squeeze(1)
    counts = [of_class[label] for label in present]
    return Classes(present, counts, begins.cumsum(0) - 1, place, first, labels[first])


def most_similarities(device: torch.device) -> int:
    """How many similarities are held at a time."""
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


class Sweep:
    """Sums over the keys that come along, for anchors [a, D], ``scaled`` by 1/τ."""

    def __init__(self, scaled: Tensor):
        self.scaled = scaled
        self.pull: Tensor = torch.zeros_like(scaled)

    def _reduce(self, group: Group, chosen: Tensor, sums: Tensor) -> Tensor:
        """Add up all ranks' pull [a, D] and ``sums`` [k, a], and keep those of the anchors at ``chosen``."""
        table = distributed.all_reduce(torch.cat([self.pull, sums.T], dim=1), group)[chosen]
        self.scaled = self.scaled[chosen]
        self.pull, sums = table.split([self.pull.shape[1], len(sums)], dim=1)
        return sums.T


class Negatives(Sweep):
    """Log-sum-exp of similarities: Σ e^(s − shift) in ``weight``, Σ e^(s − shift)·key in ``pull``.

    As anchors and keys are of unit length, a similarity s is within ± 1/τ, and the shift is 0 for τ of at
    least 1/40. Below, it is a running maximum.
    """

    def __init__(self, scaled: Tensor, temperature: float):
        super().__init__(scaled)
        self.weight = scaled.new_zeros(len(scaled))
        self._space = scaled.new_empty(0)
        self._shifts = 1 / temperature > _MOST
        self.shift = torch.full_like(self.weight, _NOTHING if self._shifts else 0)

    def add(self, block: Block) -> None:
        """Add the block's keys to the sums of its anchors."""
        anchors = self.scaled[block.anchors]
        if len(anchors) == 0:
            return
        for part in split(len(block.keys), most_similarities(anchors.device) // len(anchors)):
            keys = block.keys[part].to(anchors.dtype)
            others = None if block.taken is None else ~block.taken[:, part]
            similarity = self._product(anchors, keys)
            weights = self.weigh(block.anchors, similarity, others, within(block.left_out, part))
            self.pull[block.anchors].addmm_(weights, keys)  # Σ_n exp(s_in − shift) n: [a, D]

    def _product(self, anchors: Tensor, keys: Tensor) -> Tensor:
        """s_ik = i·k / τ: [a, k], where that of the block before was: a CPU is slow to get memory anew."""
        size = len(anchors) * len(keys)
        if len(self._space) < size:
            self._space = anchors.new_empty(size)
        return torch.mm(anchors, keys.T, out=self._space[:size].view(len(anchors), len(keys)))

    def weigh(
        self, anchors: slice, similarity: Tensor, others: Tensor | None, left_out: Sequence[Pairs] = ()
    ) -> Tensor:
        """Turn similarities [a, k] into exp(s − shift) and add them to the anchors' ``weight``.

        Args:
            others: bool [a, k], which are not compared, in addition to ``left_out``.
        """
        if self._shifts:
            compared = _fill(similarity.clone(), others, left_out, _NOTHING)
            self._raise_shift(anchors, compared.amax(dim=1))
            similarity.sub_(self.shift[anchors, None]).clamp_(_FLOOR, 0)
        weights = _fill(similarity.exp_(), others, left_out, 0)
        self.weight[anchors].add_(weights.sum(dim=1))  # Σ_n exp(s_in − shift): [a]
        return weights

    def _raise_shift(self, anchors: slice, maximum: Tensor) -> None:
        self._rescale(anchors, torch.maximum(self.shift[anchors], maximum))

    def _rescale(self, anchors: slice, shift: Tensor) -> None:
        scale = (self.shift[anchors] - shift).exp_()  # from e^(s − before) to e^(s − shift): [a]
        self.weight[anchors].mul_(scale)
        self.pull[anchors].mul_(scale[:, None])
        self.shift[anchors] = shift

    def reduce(self, group: Group, chosen: Tensor) -> None:
        """Add up all ranks' sums, and keep those of the anchors at ``chosen``."""
        if self._shifts and distributed.world_size(group) > 1:
            shift = self.shift.clone()
            dist.all_reduce(shift, dist.ReduceOp.MAX, group=group)
            self._rescale(slice(None), shift)
        self.shift = self.shift[chosen]
        self.weight = self._reduce(group, chosen, self.weight[None])[0]

    @property
    def log_sum(self) -> Tensor:
        """L: [a]; −∞ without negatives."""
        return self.shift + self.weight.log()

    @property
    def safe_weight(self) -> Tensor:
        """``weight``, fit to divide by: [a, 1]."""
        return torch.clamp(self.weight, min=torch.finfo(self.pull.dtype).tiny)[:, None]


class Positives(Sweep):
    """Σ softplus(L − s) in ``loss``; of its slopes, σ(L − s), Σ σ in ``weight`` and Σ σ·key in ``pull``."""

    def __init__(self, scaled: Tensor, log_sum: Tensor):
        super().__init__(scaled)
        self.log_sum = log_sum
        self._sums = scaled.new_zeros(3, len(scaled))

    def add(self, block: ClassBlock, classes: Classes) -> None:
        """Add the block's keys to the sums of the anchors of its classes."""
        part, (numbers, where) = classes.anchors(block.classes), classes.table(block.classes)
        anchors, log_sum = self.scaled[numbers], self.log_sum[numbers]
        for few in split(block.keys.shape[1], most_similarities(anchors.device) // max(numbers.numel(), 1)):
            keys = block.keys[:, few].to(anchors.dtype)
            taken = None if block.taken is None else block.taken[..., few]
            slopes, sums = self._slopes(log_sum, anchors @ keys.mT, taken)  # s_ip: [g, most, k]
            self._sums[:, part].add_(sums.flatten(1)[:, where])
            self.pull[part].add_((slopes @ keys).flatten(0, 1)[where])  # Σ_p σ(L − s_ip) p: [a, D]

    def add_slopes(self, similarity: Tensor, taken: Tensor) -> Tensor:
        """Add all but the pull of keys for which there are similarities [a, k] already; returns σ(L − s)."""
        slopes, sums = self._slopes(self.log_sum, similarity, taken)
        self._sums += sums
        return slopes

    def _slopes(self, log_sum: Tensor, similarity: Tensor, taken: Tensor | None) -> tuple[Tensor, Tensor]:
        """−∂ℓ/∂s of each pair [*, k], and the sums over its keys: Σ ℓ, Σ −∂ℓ/∂s and their number, [3, *]."""
        excess = torch.sub(log_sum[..., None], similarity, out=similarity)  # L − s
        loss, slopes = F.softplus(excess), excess.sigmoid_()
        if taken is None:
            number = torch.full_like(log_sum, similarity.shape[-1])
        else:
            number, others = taken.sum(dim=-1).expand_as(log_sum), ~taken
            loss, slopes = loss.masked_fill_(others, 0), slopes.masked_fill_(others, 0)
        return slopes, torch.stack([loss.sum(dim=-1), slopes.sum(dim=-1), number])

    def reduce(self, group: Group, chosen: Tensor) -> None:
        """Add up all ranks' sums, and keep those of the anchors at ``chosen``."""
        self.log_sum = self.log_sum[chosen]
        self._sums = self._reduce(group, chosen, self._sums)

    @property
    def loss(self) -> Tensor:
        """Σ_p softplus(L − s_ip): [a]."""
        return self._sums[0]

    @property
    def weight(self) -> Tensor:
        """Σ_p σ(L − s_ip): [a, 1]."""
        return self._sums[1][:, None]

    @property
    def share(self) -> Tensor:
        """1/|P|: [a, 1]."""
        return self._sums[2].clamp(min=1).reciprocal()[:, None]


def _fill(similarity: Tensor, others: Tensor | None, left_out: Sequence[Pairs], value: float) -> Tensor:
    """Set those [a, k] that are not compared to ``value``, in place."""
    if others is not None:
        similarity.masked_fill_(others, value)
    for pairs in left_out:
        similarity[pairs] = value
    return similarity


def within(pairs: Sequence[Pairs], keys: slice) -> list[Pairs]:
    """The pairs of these keys, which are counted from the first of them."""
    return [Pairs(few, part) for few, columns in pairs if (part := overlap(columns, keys))]


def overlap(part: slice, of: slice) -> slice | None:
    """What of ``part`` is in ``of``, counted from where that begins; None where nothing is."""
    begin, end = max(part.start, of.start), min(part.stop, of.stop)
    return slice(begin - of.start, end - of.start) if begin < end else None


def split(count: int, most: int) -> Iterator[slice]:
    """Slices of about equal size, at most ``most`` and at least 1, that make up the first ``count``."""
    step = math.ceil(count / math.ceil(count / max(most, 1))) if count else 1
    if _ALIGNED <= most < count:
        step = min(math.ceil(step / _ALIGNED), most // _ALIGNED) * _ALIGNED
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))
