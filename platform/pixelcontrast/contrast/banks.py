"""Banks: slots that hold embeddings of earlier batches, class by class.

Replicated, every rank stores the same gathered rows, so all copies are equal to the bit. Sharded, rank r of W
stores the rows of the slots r, r + W, r + 2W, … of every class; all else is the same on every rank. The
buffers are state to be saved and restored. Do not wrap a bank in DDP: its broadcast of buffers is not needed.

A row that is not finite is refused: it would make every later loss NaN until it is overwritten.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast.contrast.sampling import place_in_run

logger = logging.getLogger(__name__)


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
        self._has_warned = False
        self.register_buffer(
            "rows", torch.zeros(num_classes, -(-size // shard.of), embedding_dim, dtype=dtype)
        )
        self.register_buffer("written", torch.full((num_classes, size), -1, dtype=torch.int64))

    def extra_repr(self) -> str:
        num_classes, stored, dim = self.rows.shape
        shape = f"{num_classes} classes × {stored} rows × {dim} {self.rows.dtype}".replace("torch.", "")
        return f"{shape}, {nbytes(self) / 1e6:,.2f} MB"

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

    def _warn_of_refused(self, finite: Tensor) -> None:
        """Warn once. Waits for the device, so it is called only where a step has waited already."""
        if self._has_warned or bool(finite.all()):
            return
        self._has_warned = True
        logger.warning(
            "embeddings hold NaN or infinity: %d of %d rows are kept out of the contrast's memory; "
            "diagnostics.read() counts such rows as refused_rows",
            int((~finite).sum()),
            len(finite),
        )

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
    def enqueue(self, rows: Tensor, labels: Tensor, *, step: int) -> Tensor:
        """Let rows [n, D] of classes ``labels`` [n] in, in their order; in a full ring the oldest leave.

        Returns:
            int64 []: how many rows were refused because they are not finite.
        """
        finite = rows.isfinite().all(dim=1)
        groups = labels.masked_fill(~finite, len(self.pointer))  # the refused are a group of their own
        order = torch.argsort(groups, stable=True)
        count = torch.bincount(groups, minlength=len(self.pointer) + 1)
        place = torch.empty_like(labels)
        place[order] = place_in_run(groups[order])
        slots = (self.pointer[labels] + place) % self.size
        kept = finite & (place >= (count - self.size)[groups])
        if not bool(kept.all()):
            self._warn_of_refused(finite)
            labels, slots, rows = labels[kept], slots[kept], rows[kept]
        self._write(labels, slots, rows, step)
        self.pointer.copy_((self.pointer + count[:-1]) % self.size)
        return count[-1]


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
    def store(self, rows: Tensor, labels: Tensor, images: Tensor, *, step: int) -> Tensor:
        """Let rows [n, D] of classes ``labels`` [n] and ``images`` [n] in; the last of equals stays.

        Returns:
            int64 []: how many rows were refused because they are not finite.
        """
        finite = rows.isfinite().all(dim=1)
        numbers = (labels * self.size + images).masked_fill(~finite, self.slot.numel())
        order = torch.argsort(numbers, stable=True)
        last = torch.ones_like(finite)
        last[:-1] = numbers[order][1:] != numbers[order][:-1]
        kept = order[last & finite[order]]
        if len(kept) < len(rows):
            self._warn_of_refused(finite)
        rows, labels, images = rows[kept], labels[kept], images[kept]
        new = torch.nonzero(self.slot[labels, images] < 0).squeeze(1)
        self.slot[labels[new], images[new]] = self.filled[labels[new]] + place_in_run(labels[new])
        self._write(labels, self.slot[labels, images], rows, step)
        return (~finite).sum()


def nbytes(module: nn.Module) -> int:
    """Bytes of a module's buffers."""
    return sum(buffer.nbytes for buffer in module.buffers())
