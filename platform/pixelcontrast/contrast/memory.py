"""The memory: embeddings of earlier batches, as further positives and negatives (paper, Sec. 3.2)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pixelcontrast import draws
from pixelcontrast.contrast.banks import Bank, Queue, Shard, Slots, Span, nbytes
from pixelcontrast.contrast.hyperparameters import MemoryConfig

_EXAMPLE = 4
"""The stream of keys that examples are drawn with; sampling.py has 1 to 3."""


class Run(NamedTuple):
    """Stored rows of one class, side by side."""

    label: int
    rows: Tensor
    """[n, D], a view."""
    first: int
    """The number of the first among all examples."""


class Examples:
    """The memory's rows on this rank in one step: views and numbers, no copy. Valid until rows are written.

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
        return nbytes(self)

    def extra_repr(self) -> str:
        return "" if self.banks else "no banks"

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


def build_memory(
    config: MemoryConfig, *, num_classes: int, embedding_dim: int, num_images: int | None, shard: Shard
) -> Memory:
    """The banks that ``config`` asks for, empty.

    Args:
        num_images: of the training set; None if it is not known.
        shard: the part of them that this rank stores.

    Raises:
        ValueError: neither a bank's size nor ``num_images`` is given.
    """
    settings: dict[str, Any] = {"num_classes": num_classes, "embedding_dim": embedding_dim, "shard": shard}
    settings["dtype"] = getattr(torch, config.memory_dtype)
    pixels, regions = (size(num_classes, num_images) for size in (config.pixels_of, config.regions_of))
    pixel = Queue(size=pixels, max_age=config.memory_max_age, **settings) if pixels else None
    region = None
    if num_images is not None and num_images <= regions and config.memory_max_age is None:
        region = Slots(size=num_images, **settings)
    elif regions:
        region = Queue(size=regions, max_age=config.memory_max_age, **settings)
    return Memory(pixel, region)
