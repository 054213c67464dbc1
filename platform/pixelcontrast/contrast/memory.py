"""The memory: embeddings of earlier batches, as further positives and negatives (paper, Sec. 3.2)."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import draws
from pixelcontrast.contrast.banks import Bank, Queue, Shard, Slots, nbytes
from pixelcontrast.contrast.hyperparameters import MemoryConfig
from pixelcontrast.contrast.maps import at_least_float
from pixelcontrast.contrast.sampling import Table, smallest_per_group
from pixelcontrast.contrast.sweeps import split

_EXAMPLE = 4
"""The stream of keys that examples are drawn with; sampling.py has 1 to 3."""


class Piece(NamedTuple):
    """Examples side by side: number ``begin`` and those that follow."""

    begin: int
    rows: Tensor
    """[n, D], in the type they are stored in."""


class Examples:
    """The memory's usable rows on this rank in one step, numbered by bank, class and slot.

    Valid until rows are written.

    Args:
        rows: [num_classes, slots, D] of every bank.
        usable: bool [num_classes, slots] of every bank.
        keys: int64 [num_classes, slots] of every bank, what the examples are ordered by.
        counts: how many slots of each class are usable, of every bank.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        usable: Sequence[Tensor],
        keys: Sequence[Tensor],
        counts: Sequence[Sequence[int]],
    ):
        self._banks = [bank.flatten(0, 1) for bank in rows]
        self._sizes = [sum(of_bank) for of_bank in counts]
        self._counts = counts
        self.of_class = [sum(of_banks) for of_banks in zip(*counts, strict=True)]
        """How many there are of each class."""
        # Each example's place among the slots of all banks.
        mask = torch.cat([of_bank.flatten() for of_bank in usable])
        self._places = torch.nonzero_static(mask, size=len(self)).squeeze(1)
        classes = torch.arange(len(self.of_class), device=mask.device)[:, None]
        self.labels = torch.cat([classes.expand_as(of_bank).flatten() for of_bank in usable])[self._places]
        self._keys = torch.cat([of_bank.flatten() for of_bank in keys])[self._places]

    def __len__(self) -> int:
        return sum(self._sizes)

    @cached_property
    def order(self) -> Tensor:
        """int64 [n]: the examples' numbers in the random order of this step."""
        return torch.argsort(self._keys, stable=True)

    def front(self, num: int) -> Tensor:
        """The first ``num`` of ``order``, or all there are."""
        num = min(num, len(self))
        if self._keys.device.type != "cpu":
            return self.order[:num]  # a GPU sorts all sooner than it finds what to sort
        everyone = torch.zeros_like(self._keys)
        return smallest_per_group(self._keys, everyone, num, num_groups=1, most=num).rows[0]

    def first_of_classes(self, num: int) -> Table:
        """For each class its first ``num`` in the step's order, or all there are."""
        num = min(num, max(self.of_class))
        return smallest_per_group(self._keys, self.labels, num, num_groups=len(self.of_class), most=num)

    def rows(self, numbers: Tensor) -> Tensor:
        """[*, D]: the rows of these numbers [*]."""
        # A lookup of an embedding is three times as fast as an index on a CPU.
        places, first = self._places[numbers], 0
        rows = F.embedding(places.clamp(max=len(self._banks[0]) - 1), self._banks[0])
        for before, bank in pairwise(self._banks):
            first += len(before)
            others = F.embedding((places - first).clamp(min=0), bank)
            rows = torch.where((places < first)[..., None], rows, others)
        return rows

    def of_one_class(self, label: int) -> Iterator[slice]:
        """The numbers of a class's examples, a slice for every bank."""
        first = 0
        for of_bank, size in zip(self._counts, self._sizes, strict=True):
            begin = first + sum(of_bank[:label])
            yield slice(begin, begin + of_bank[label])
            first += size

    def side_by_side(self, numbers: slice) -> Tensor:
        """[n, D]: the rows of consecutive numbers of one bank; of a full bank a view."""
        number = first = 0
        for bank, size in zip(self._banks, self._sizes, strict=True):
            if numbers.stop <= number + size:
                if size == len(bank):
                    return bank[numbers.start - number : numbers.stop - number]
                return bank.index_select(0, self._places[numbers] - first)
            number, first = number + size, first + len(bank)
        raise IndexError(f"{numbers} of {len(self)} examples")

    def pieces(self, most: int) -> Iterator[Piece]:
        """All rows, at most ``most`` at a time."""
        number = 0
        for size in self._sizes:
            for part in split(size, most):
                begin = number + part.start
                yield Piece(begin, self.side_by_side(slice(begin, number + part.stop)))
            number += size


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
    def is_sharded(self) -> bool:
        """Whether each rank stores a part of the banks."""
        return any(bank.shard.of > 1 for bank in self.banks.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all banks on this rank."""
        return nbytes(self)

    def extra_repr(self) -> str:
        return "" if self.banks else "no banks"

    def counts(self, step: int | Tensor) -> Tensor:
        """int64 [2, banks, num_classes]: usable slots on all ranks, and those that this rank stores."""
        banks = self.banks.values()
        if not banks:
            return torch.zeros(0, dtype=torch.int64, device=torch.as_tensor(step).device)
        of_all = [bank.usable(step) for bank in banks]
        stored = [
            bank.is_usable_here(step).sum(dim=1) if bank.shard.of > 1 else count
            for bank, count in zip(banks, of_all, strict=True)
        ]
        return torch.stack(of_all + stored).unflatten(0, (2, -1))

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

    def class_sums(self, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """float64 [num_classes, D] and [num_classes]: the sums of this rank's usable rows, and how many."""
        sums, counts = [], []
        for bank in self.banks.values():
            usable = bank.is_usable_here(step)
            rows = at_least_float(bank.rows)
            sums.append((usable[:, None].to(rows.dtype) @ rows).squeeze(1).double())
            counts.append(usable.sum(dim=1).double())
        return torch.stack(sums).sum(dim=0), torch.stack(counts).sum(dim=0)

    def examples(
        self,
        *,
        seed: int,
        key: int,
        step: int | Tensor,
        counts: Sequence[Sequence[int]] | None = None,
    ) -> Examples:
        """All usable rows that this rank stores, in an order that ``key`` names; needs a bank.

        Args:
            counts: the second half of ``self.counts(step)``; without it, the device is waited for.
        """
        banks, keys, first = list(self.banks.values()), [], 0
        for bank in banks:
            classes = torch.arange(len(bank.rows), device=bank.rows.device)[:, None]
            here = bank.names[:, bank.shard.index :: bank.shard.of]
            names = F.pad(first + classes * bank.size + here, (0, bank.rows.shape[1] - here.shape[1]))
            keys.append(draws.hashed(seed, _EXAMPLE, key, names))
            first += bank.written.numel()
        return Examples(
            [bank.rows for bank in banks],
            [bank.is_usable_here(step) for bank in banks],
            keys,
            counts or self.counts(step)[1].tolist(),
        )


def build_memory(
    config: MemoryConfig, *, num_classes: int, embedding_dim: int, num_images: int | None, shard: Shard
) -> Memory:
    """The banks that ``config`` asks for, empty.

    Args:
        num_images: of the training set; None if it is not known.
        shard: the part of them that this rank stores.

    Raises:
        ValueError: neither a bank's size nor ``num_images`` is given, or there are no images.
    """
    if num_images is not None and num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1, or None where it is not known")
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
