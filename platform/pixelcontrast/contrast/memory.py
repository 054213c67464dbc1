"""The memory: embeddings of earlier batches, as further positives and negatives (paper, Sec. 3.2).

Every rank stores the same gathered rows, so all copies are equal to the bit. The buffers are state to be
saved and restored; nothing here must be wrapped in DDP, whose buffer broadcast is not needed.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pixelcontrast import draws
from pixelcontrast.contrast.sampling import place_in_run

_EXAMPLE = 4
"""The stream of keys that examples are drawn with; sampling.py has 1 to 3."""


class Bank(nn.Module):
    """Slots for embeddings, ``size`` for every class; an empty one is never a sample."""

    rows: Tensor
    """[num_classes, size, D], in the type they are stored in."""
    written: Tensor
    """int64 [num_classes, size]: the step in which the slot was written; −1 while it is empty."""

    def __init__(self, num_classes: int, size: int, embedding_dim: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_classes, size, embedding_dim, dtype=dtype))
        self.register_buffer("written", torch.full((num_classes, size), -1, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Slots of every class."""
        return self.written.shape[1]

    @property
    def filled(self) -> Tensor:
        """int64 [num_classes]: slots that hold something."""
        return (self.written >= 0).sum(dim=1)

    def age(self, step: int) -> Tensor:
        """float64 [num_classes]: mean number of steps since a class's rows were written; NaN without rows."""
        ages = torch.where(self.written >= 0, step - self.written, 0)
        return ages.sum(dim=1).to(torch.float64) / self.filled

    def _write(self, labels: Tensor, slots: Tensor, rows: Tensor, step: int) -> None:
        self.rows[labels, slots] = rows.to(self.rows.dtype)
        self.written[labels, slots] = step


class Queue(Bank):
    """The newest ``size`` rows of every class, each class a ring."""

    pointer: Tensor

    def __init__(self, num_classes: int, size: int, embedding_dim: int, dtype: torch.dtype = torch.float32):
        super().__init__(num_classes, size, embedding_dim, dtype)
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, rows: Tensor, labels: Tensor, *, step: int) -> None:
        """Let rows [n, D] of classes ``labels`` [n] in, in their order; in a full ring the oldest leave."""
        num_classes, size, _ = self.rows.shape
        order = torch.argsort(labels, stable=True)
        labels = labels[order]
        place, count = place_in_run(labels), torch.bincount(labels, minlength=num_classes)
        kept = place >= (count - size)[labels]
        slots = (self.pointer[labels] + place) % size
        self._write(labels[kept], slots[kept], rows[order[kept]], step)
        self.pointer.copy_((self.pointer + count) % size)


class Slots(Bank):
    """One row for every class and image, the newest: the paper's region memory."""

    @torch.no_grad()
    def store(self, rows: Tensor, labels: Tensor, images: Tensor, *, step: int) -> None:
        """Let rows [n, D] of classes ``labels`` [n] and ``images`` [n] in; the last of equals stays."""
        slots = labels * self.rows.shape[1] + images
        order = torch.argsort(slots, stable=True)
        last = torch.ones_like(slots, dtype=torch.bool)
        last[:-1] = slots[order][1:] != slots[order][:-1]
        kept = order[last]
        self._write(labels[kept], images[kept], rows[kept], step)


class Examples(NamedTuple):
    """A copy of the memory as one step sees it, sorted by class."""

    rows: Tensor
    """[n, D]."""
    labels: Tensor
    """int64 [n], ascending."""
    place: Tensor
    """int64 [n]: each row's place in the random order of this step."""


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
        """Bytes of all banks."""
        return sum(buffer.nbytes for buffer in self.buffers())

    @property
    def filled(self) -> Tensor | int:
        """int64 [num_classes]: examples of every class; 0 where there is no bank."""
        return sum(bank.filled for bank in self.banks.values())

    def state_of_classes(self, step: int) -> dict[str, list[float]]:
        """For each bank, ``<bank>_fill``, the filled share of every class, and ``<bank>_age`` in steps."""
        state = {}
        for name, bank in self.banks.items():
            state[f"{name}_fill"] = (bank.filled / bank.size).tolist()
            state[f"{name}_age"] = bank.age(step).tolist()
        return state

    def examples(self, *, seed: int, key: int) -> Examples:
        """All that is stored, with an order drawn for the step that ``key`` names; needs a bank."""
        labels, slots = self._filled_slots()
        order = torch.argsort(labels, stable=True)
        labels, slots = labels[order], slots[order]
        place = torch.empty_like(slots)
        place[torch.argsort(draws.hashed(seed, _EXAMPLE, key, slots), stable=True)] = torch.arange(
            len(slots), device=slots.device
        )
        return Examples(self._rows(slots), labels, place)

    def _filled_slots(self) -> tuple[Tensor, Tensor]:
        """Classes [n] and slots [n], numbered through all banks, of what is filled."""
        labels, slots, first = [], [], 0
        for bank in self.banks.values():
            found = torch.nonzero(bank.written.flatten() >= 0).squeeze(1)
            labels.append(found.div(bank.size, rounding_mode="floor"))
            slots.append(first + found)
            first += bank.written.numel()
        return torch.cat(labels), torch.cat(slots)

    def _rows(self, slots: Tensor) -> Tensor:
        banks = list(self.banks.values())
        rows, first = banks[0].rows.new_empty(len(slots), banks[0].rows.shape[2]), 0
        for bank in banks:
            inside = torch.nonzero((slots >= first) & (slots < first + bank.written.numel())).squeeze(1)
            rows[inside] = bank.rows.flatten(0, 1)[slots[inside] - first]
            first += bank.written.numel()
        return rows
