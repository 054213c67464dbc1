"""The memory: embeddings of earlier batches, as further positives and negatives (paper, Sec. 3.2).

Replicated, every rank stores the same gathered rows, so all copies are equal to the bit. Sharded, rank r of W
stores the rows of the slots r, r + W, r + 2W, … of every class; all else is the same on every rank. The
buffers are state to be saved and restored; nothing here must be wrapped in DDP, whose buffer broadcast is not
needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import draws
from pixelcontrast.contrast.sampling import place_in_run

_EXAMPLE = 4
"""The stream of keys that examples are drawn with; sampling.py has 1 to 3."""


@dataclass(frozen=True)
class Shard:
    """Which part of every class's slots a rank stores: those that leave ``index`` when divided by ``of``."""

    index: int = 0
    of: int = 1

    def stored(self, slots: int) -> int:
        """How many of the first ``slots`` are stored here."""
        return (slots - self.index + self.of - 1) // self.of


WHOLE = Shard()


def reshard(states: Sequence[Mapping[str, Tensor]], shard: Shard) -> dict[str, Tensor]:
    """The part ``shard`` of a memory of which all parts are given, in order.

    Args:
        states: ``state_dict`` of a module that contains the memory, from each of the ranks that shared it; a
            replicated memory is one part.
    """
    state = dict(states[0])
    for name in [name for name in state if name.endswith(".rows")]:
        size = state[f"{name.removesuffix('rows')}written"].shape[1]
        rows = torch.stack([part[name] for part in states], dim=2).flatten(1, 2)[:, :size]
        rows = rows[:, shard.index :: shard.of]
        state[name] = F.pad(rows, (0, 0, 0, -(-size // shard.of) - rows.shape[1]))
    return state


class Span(NamedTuple):
    """Slots ``begin`` to ``end`` − 1."""

    begin: int
    end: int


def _ring_spans(begin: int, count: int, size: int) -> list[Span]:
    """``count`` slots of a ring from ``begin`` on, as ascending ranges."""
    end = begin + count
    if end <= size:
        return [Span(begin, end)]
    return [Span(0, end - size), Span(begin, size)]


class Bank(nn.Module):
    """Slots for embeddings, ``size`` for every class, filled from the first on; an empty one is no sample."""

    rows: Tensor
    """[num_classes, slots stored here, D], in the type they are stored in."""
    written: Tensor
    """int64 [num_classes, size]: the step in which the slot was written; −1 while it is empty."""

    def __init__(
        self,
        num_classes: int,
        size: int,
        embedding_dim: int,
        dtype: torch.dtype = torch.float32,
        shard: Shard = WHOLE,
    ):
        super().__init__()
        self.shard = shard
        self.register_buffer(
            "rows", torch.zeros(num_classes, -(-size // shard.of), embedding_dim, dtype=dtype)
        )
        self.register_buffer("written", torch.full((num_classes, size), -1, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Slots of every class."""
        return self.written.shape[1]

    @property
    def filled(self) -> Tensor:
        """int64 [num_classes]: slots that hold something."""
        return (self.written >= 0).sum(dim=1)

    def usable(self, step: int) -> Tensor:
        """int64 [num_classes]: filled slots that are not too old at ``step``."""
        del step
        return self.filled

    def spans(self, step: int) -> list[list[Span]]:
        """For every class, the slots that ``usable`` counts: at most two ranges, ascending."""
        return [[Span(0, count)] for count in self.usable(step).tolist()]

    def clear(self) -> None:
        """Empty all slots."""
        self.written.fill_(-1)

    @property
    def names(self) -> Tensor:
        """int64 [num_classes, size]: what tells a slot from the others of its class in a draw."""
        return torch.arange(self.size, device=self.written.device).expand_as(self.written)

    def age(self, step: int) -> Tensor:
        """float64 [num_classes]: mean number of steps since its usable rows were written; NaN without."""
        ages = torch.where(self._is_usable(step), step - self.written, 0)
        return ages.sum(dim=1).to(torch.float64) / self.usable(step)

    def _is_usable(self, step: int) -> Tensor:
        del step
        return self.written >= 0

    def _write(self, labels: Tensor, slots: Tensor, rows: Tensor, step: int) -> None:
        self.written.flatten().index_fill_(0, labels * self.size + slots, step)
        if self.shard.of > 1:
            here = torch.nonzero(slots % self.shard.of == self.shard.index).squeeze(1)
            labels, slots, rows = labels[here], slots[here], rows[here]
            slots = slots.div(self.shard.of, rounding_mode="floor")
        places = labels * self.rows.shape[1] + slots
        self.rows.flatten(0, 1).index_copy_(0, places, rows.to(self.rows.dtype))


class Queue(Bank):
    """The newest ``size`` rows of every class, each class a ring.

    Args:
        max_age: steps after which a row is no longer used, though its slot stays filled; None: never.
    """

    pointer: Tensor

    def __init__(self, num_classes: int, size: int, *args: Any, max_age: int | None = None, **settings: Any):
        super().__init__(num_classes, size, *args, **settings)
        self.max_age = max_age
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))

    def usable(self, step: int) -> Tensor:
        return self._is_usable(step).sum(dim=1)

    def spans(self, step: int) -> list[list[Span]]:
        if self.max_age is None:
            return super().spans(step)
        # Rows enter in order, so the young ones are the last before the pointer.
        young = self.usable(step).tolist()
        return [
            _ring_spans((end - count) % self.size, count, self.size)
            for end, count in zip(self.pointer.tolist(), young, strict=True)
        ]

    def clear(self) -> None:
        super().clear()
        self.pointer.zero_()

    def _is_usable(self, step: int) -> Tensor:
        oldest = 0 if self.max_age is None else max(step - self.max_age, 0)
        return self.written >= oldest

    @torch.no_grad()
    def enqueue(self, rows: Tensor, labels: Tensor, *, step: int) -> None:
        """Let rows [n, D] of classes ``labels`` [n] in, in their order; in a full ring the oldest leave."""
        order = torch.argsort(labels, stable=True)
        count = torch.bincount(labels, minlength=len(self.pointer))
        place = torch.empty_like(labels)
        place[order] = place_in_run(labels[order])
        slots = (self.pointer[labels] + place) % self.size
        kept = place >= (count - self.size)[labels]
        if not bool(kept.all()):
            labels, slots, rows = labels[kept], slots[kept], rows[kept]
        self._write(labels, slots, rows, step)
        self.pointer.copy_((self.pointer + count) % self.size)


class Slots(Bank):
    """One row for every class and image, the newest: the paper's region memory. ``size`` is that of images.

    A class's slots are given out in the order in which its images come.
    """

    slot: Tensor
    """int64 [num_classes, size]: the slot of every image; −1 where it has none yet."""

    def __init__(self, num_classes: int, size: int, *args: Any, **settings: Any):
        super().__init__(num_classes, size, *args, **settings)
        self.register_buffer("slot", torch.full((num_classes, size), -1, dtype=torch.int64))

    def clear(self) -> None:
        super().clear()
        self.slot.fill_(-1)

    @property
    def names(self) -> Tensor:
        """A slot is named by its image."""
        labels, images = torch.nonzero(self.slot >= 0, as_tuple=True)
        names = torch.zeros_like(self.slot)
        names[labels, self.slot[labels, images]] = images
        return names

    @torch.no_grad()
    def store(self, rows: Tensor, labels: Tensor, images: Tensor, *, step: int) -> None:
        """Let rows [n, D] of classes ``labels`` [n] and ``images`` [n] in; the last of equals stays."""
        numbers = labels * self.size + images
        order = torch.argsort(numbers, stable=True)
        last = torch.ones_like(numbers, dtype=torch.bool)
        last[:-1] = numbers[order][1:] != numbers[order][:-1]
        kept = order[last]
        rows, labels, images = rows[kept], labels[kept], images[kept]
        new = torch.nonzero(self.slot[labels, images] < 0).squeeze(1)
        self.slot[labels[new], images[new]] = self.filled[labels[new]] + place_in_run(labels[new])
        self._write(labels, self.slot[labels, images], rows, step)


class Run(NamedTuple):
    """Stored rows of one class, side by side."""

    label: int
    rows: Tensor
    """[n, D], a view."""
    first: int
    """The number of the first among all examples."""


class Examples:
    """What this rank stores as one step sees it: views and numbers, no copy. Valid until rows are written.

    Args:
        banks: rows [num_classes, slots, D] of every bank, and for each class the ranges of them to use.
        keys: int64 [n], what the examples are ordered by, in the order of banks, classes and slots.
    """

    def __init__(self, banks: Sequence[tuple[Tensor, list[list[Span]]]], keys: Tensor):
        self._banks = [rows.flatten(0, 1) for rows, _ in banks]
        self._keys = keys
        self.runs: list[Run] = []
        self._starts, places = [], []
        number = 0
        for rows, spans in banks:
            self._starts.append(number)
            for label, (begin, end) in ((c, span) for c, of_class in enumerate(spans) for span in of_class):
                if begin < end:
                    self.runs.append(Run(label, rows[label, begin:end], number))
                    places.append(label * rows.shape[1] + begin)
                    number += end - begin
        device, sizes = keys.device, torch.tensor([len(run.rows) for run in self.runs], dtype=torch.int64)
        sizes = sizes.to(device)
        self.labels = torch.tensor([run.label for run in self.runs], dtype=torch.int64, device=device)
        self.labels = self.labels.repeat_interleave(sizes)
        firsts = torch.tensor([run.first for run in self.runs], dtype=torch.int64, device=device)
        offsets = torch.tensor(places, dtype=torch.int64, device=device) - firsts
        self._rows = torch.arange(number, device=device) + offsets.repeat_interleave(sizes)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def order(self) -> Tensor:
        """int64 [n]: the examples' numbers in the random order of this step."""
        return torch.argsort(self._keys, stable=True)

    @cached_property
    def _by_class(self) -> tuple[Tensor, list[int]]:
        """The same, class after class, and where each class begins."""
        labels = self.labels[self.order]
        count = torch.bincount(labels).tolist()
        return self.order[torch.argsort(labels, stable=True)], [sum(count[:c]) for c in range(len(count) + 1)]

    def first(self, label: int, num: int) -> Tensor:
        """Numbers of the first ``num`` examples of a class in the step's order, or of all there are."""
        numbers, begins = self._by_class
        if label + 1 >= len(begins):
            return numbers[:0]
        return numbers[begins[label] : min(begins[label] + num, begins[label + 1])]

    def rows(self, numbers: Tensor) -> Tensor:
        """[n, D]: the rows of these numbers, ascending or not."""
        rows = self._banks[0].new_empty(len(numbers), self._banks[0].shape[1])
        if len(self._banks) == 1:
            return torch.index_select(self._banks[0], 0, self._rows[numbers])
        bounds = [*self._starts, len(self)]
        for bank, begin, end in zip(self._banks, bounds[:-1], bounds[1:], strict=True):
            inside = torch.nonzero((numbers >= begin) & (numbers < end)).squeeze(1)
            rows[inside] = bank[self._rows[numbers[inside]]]
        return rows


class Memory(nn.Module):
    """A pixel queue and a region memory, each of them or none, seen as one set of examples.

    Args:
        pixel: None for no pixel queue.
        region: a slot per class and image, or the newest of each class; None for no region memory.
    """

    def __init__(self, pixel: Queue | None, region: Slots | Queue | None):
        super().__init__()
        self.pixel, self.region = pixel, region

    @property
    def banks(self) -> dict[str, Bank]:
        """The banks that there are, by name."""
        both = {"pixel": self.pixel, "region": self.region}
        return {name: bank for name, bank in both.items() if bank is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all banks on this rank."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def usable(self, step: int) -> Tensor | int:
        """int64 [num_classes]: examples of every class on all ranks; 0 where there is no bank."""
        return sum(bank.usable(step) for bank in self.banks.values())

    def clear(self) -> None:
        """Forget everything."""
        for bank in self.banks.values():
            bank.clear()

    def state_of_classes(self, step: int) -> dict[str, list[float]]:
        """For each bank, ``<bank>_fill``, the filled share of every class, and ``<bank>_age`` in steps."""
        state = {}
        for name, bank in self.banks.items():
            state[f"{name}_fill"] = (bank.filled / bank.size).tolist()
            state[f"{name}_age"] = bank.age(step).tolist()
        return state

    def mean_age(self, step: int) -> float | None:
        """Mean number of steps since the usable rows of all banks were written; None without rows."""
        counts = torch.cat([bank.usable(step) for bank in self.banks.values()] or [torch.zeros(1)])
        if not counts.any():
            return None
        ages = torch.cat([bank.age(step) for bank in self.banks.values()]).nan_to_num()
        return float((ages * counts).sum() / counts.sum())

    def examples(self, *, seed: int, key: int, step: int) -> Examples:
        """All usable rows that this rank stores, in an order that ``key`` names; needs a bank."""
        banks, names, first = [], [], 0
        for bank in self.banks.values():
            spans = [
                [Span(*map(bank.shard.stored, span)) for span in of_class] for of_class in bank.spans(step)
            ]
            banks.append((bank.rows, spans))
            here = torch.zeros(bank.rows.shape[:2], dtype=torch.bool)
            for row, (begin, end) in ((here[c], span) for c, each in enumerate(spans) for span in each):
                row[begin:end] = True
            labels, places = torch.nonzero(here.to(bank.rows.device), as_tuple=True)
            slots = places * bank.shard.of + bank.shard.index
            names.append(first + labels * bank.size + bank.names[labels, slots])
            first += bank.written.numel()
        return Examples(banks, draws.hashed(seed, _EXAMPLE, key, torch.cat(names)))
