"""Banks: slots that hold embeddings of earlier batches, class by class.

Replicated, every rank stores the same gathered rows, so all copies are equal to the bit. Sharded, rank r of W
stores the rows of the slots r, r + W, r + 2W, … of every class; all else is the same on every rank. The
buffers are state to be saved and restored. Do not wrap a bank in DDP: its broadcast of buffers is not needed.

A row that is not finite is refused: it would make every later loss NaN until it is overwritten.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast.contrast.kept_dtypes import KeepsDtypes
from pixelcontrast.contrast.maps import are_finite
from pixelcontrast.contrast.sampling import place_in_run


@dataclass(frozen=True)
class Shard:
    """Which part of every class's slots a rank stores: those that leave ``index`` when divided by ``of``."""

    index: int = 0
    of: int = 1

    def stored(self, slots: int) -> int:
        """How many of the first ``slots`` are stored here."""
        return (slots - self.index + self.of - 1) // self.of

    def __str__(self) -> str:
        return "all of a memory" if self.of == 1 else f"part {self.index} of {self.of} of a memory"


WHOLE = Shard()


def reshard(states: Sequence[Mapping[str, Tensor]], shard: Shard) -> dict[str, Tensor]:
    """The part ``shard`` of a memory of which all parts are given, in order.

    ``contrast.load_state_dict(reshard(states, contrast.shard))`` restores it on any number of ranks.

    Args:
        states: ``state_dict`` of a module that contains the memory, from each of the ranks that shared it; a
            replicated memory is one part.

    Raises:
        ValueError: the states are not all parts of one memory, in order.
    """
    state = dict(states[0])
    for bank in [name.removesuffix("rows") for name in state if name.endswith(".rows")]:
        found = [_stored(part, bank) for part in states if f"{bank}part" in part]
        if found and found != [Shard(index, len(states)) for index in range(len(states))]:
            parts = ", ".join(map(str, found))
            raise ValueError(f"{bank}rows are {parts}; needed is every rank's state_dict, in rank order")
        size = state[f"{bank}written"].shape[1]
        rows = torch.stack([part[f"{bank}rows"] for part in states], dim=2).flatten(1, 2)[:, :size]
        rows = rows[:, shard.index :: shard.of]
        state[f"{bank}rows"] = F.pad(rows, (0, 0, 0, -(-size // shard.of) - rows.shape[1]))
        state.pop(f"{bank}part", None)
        if shard.of > 1:
            state[f"{bank}part"] = torch.tensor([shard.index, shard.of])
    return state


def _stored(state: Mapping[str, Any], bank: str) -> Shard:
    """Which part of a bank a ``state_dict`` holds; ``bank`` is the prefix of its names."""
    return Shard(*state[f"{bank}part"].tolist()) if f"{bank}part" in state else WHOLE


def _refuse_other_parts(module: nn.Module, state: Mapping[str, Any], bank: str, *_: Any) -> None:
    """Raise ``ValueError`` where another part of the memory is loaded than the module stores."""
    assert isinstance(module, Bank)
    if f"{bank}rows" in state and (found := _stored(state, bank)) != module.shard:
        raise ValueError(
            f"{bank}rows are {found}, and this rank stores {module.shard}: save every rank's state_dict, and "
            "load reshard(states, contrast.shard) (pixelcontrast.contrast)"
        )


class Places(NamedTuple):
    """Where rows [n, D] of a batch go in a bank; the same on all ranks that share it."""

    labels: Tensor
    """int64 [n]: their classes."""
    slots: Tensor
    """int64 [n]: their slots; any where a row is not kept."""
    kept: Tensor
    """bool [n]: the rows that are written, no two of them into one slot."""
    refused: Tensor
    """int64 []: how many rows are refused because they are not finite."""
    advance: Callable[[], object]
    """Does what the bank must know of this batch for the next."""

    def owners(self, ranks: int) -> Tensor:
        """int64 [n]: which of the ``ranks`` that share the bank stores a row; ``ranks`` where none does."""
        return torch.where(self.kept, self.slots % ranks, ranks)


class Bank(KeepsDtypes):
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
        if shard.of > 1:  # in the state_dict, for who loads it
            self.register_buffer("part", torch.tensor([shard.index, shard.of]))
        self.register_load_state_dict_pre_hook(_refuse_other_parts)

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

    def is_usable(self, step: int | Tensor) -> Tensor:
        """bool [num_classes, size]: slots that are filled and not too old at ``step``."""
        del step
        return self.written >= 0

    def is_usable_here(self, step: int | Tensor) -> Tensor:
        """bool [num_classes, slots stored here]: those of them that this rank stores."""
        usable = self.is_usable(step)[:, self.shard.index :: self.shard.of]
        return F.pad(usable, (0, self.rows.shape[1] - usable.shape[1]))

    def usable(self, step: int | Tensor) -> Tensor:
        """int64 [num_classes]: how many slots are usable."""
        return self.is_usable(step).sum(dim=1)

    def clear(self) -> None:
        """Empty all slots."""
        self.written.fill_(-1)

    @property
    def names(self) -> Tensor:
        """int64 [num_classes, size]: what tells a slot from the others of its class in a draw."""
        return torch.arange(self.size, device=self.written.device).expand_as(self.written)

    def age(self, step: int) -> Tensor:
        """float64 [num_classes]: mean number of steps since its usable rows were written; NaN without."""
        ages = torch.where(self.is_usable(step), step - self.written, 0)
        return ages.sum(dim=1).to(torch.float64) / self.usable(step)

    def place(self, labels: Tensor, finite: Tensor, images: Tensor | None = None) -> Places:
        """Find the slots of rows of classes ``labels`` int64 [n], in their order; changes nothing.

        Args:
            finite: bool [n]; what is not is refused.
            images: int64 [n], where there is a slot for every image.
        """
        raise NotImplementedError

    @torch.no_grad()
    def write(
        self, rows: Tensor, labels: Tensor, images: Tensor | None = None, *, step: int | Tensor
    ) -> Tensor:
        """Let rows [n, D] of classes ``labels`` [n] in, in their order.

        Returns:
            int64 []: how many rows were refused because they are not finite.
        """
        if len(rows) == 0:
            return labels.new_zeros(())
        places = self.place(labels, are_finite(rows), images)
        self._mark(places, step)
        kept = places.kept
        if self.shard.of > 1:
            kept = kept & (places.slots % self.shard.of == self.shard.index)
        self._put(labels, places.slots, rows, kept)
        return places.refused

    @torch.no_grad()
    def write_own(self, places: Places, numbers: Tensor, rows: Tensor, *, step: int | Tensor) -> Tensor:
        """Let in a batch of which only the rows [m, D] that this rank stores are here.

        Args:
            places: of the whole batch.
            numbers: int64 [m], which of them the rows are.

        Returns:
            As ``write``.
        """
        self._mark(places, step)
        if len(numbers):
            self._put(places.labels[numbers], places.slots[numbers], rows, places.kept[numbers])
        return places.refused

    def _mark(self, places: Places, step: int | Tensor) -> None:
        """Write down what all ranks know of the batch."""
        numbers = places.labels * self.size + places.slots
        self.written.view(-1).scatter_reduce_(0, numbers, torch.where(places.kept, step, -1), "amax")
        places.advance()

    def _put(self, labels: Tensor, slots: Tensor, rows: Tensor, kept: Tensor) -> None:
        """Write the rows [n, D] that are ``kept`` [n]; this rank stores their slots."""
        if self.shard.of > 1:
            slots = slots.div(self.shard.of, rounding_mode="floor")
        bank, places = self.rows.flatten(0, 1), labels * self.rows.shape[1] + slots
        if kept.device.type == "cpu":
            if not kept.all():
                few = torch.nonzero(kept).squeeze(1)
                places, rows = places[few], rows.index_select(0, few)
            bank.index_copy_(0, places, rows.to(bank.dtype))
            return
        # How many are kept a GPU would have to be asked: the others repeat what the first of them writes.
        source = torch.where(kept, torch.arange(len(kept), device=kept.device), kept.int().argmax())
        places = places[source]
        values = torch.where(kept.any(), rows[source].to(bank.dtype), bank[places])
        bank.index_copy_(0, places, values)


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

    def clear(self) -> None:
        super().clear()
        self.pointer.zero_()

    def is_usable(self, step: int | Tensor) -> Tensor:
        usable = super().is_usable(step)
        return usable if self.max_age is None else usable & (self.written >= step - self.max_age)

    def place(self, labels: Tensor, finite: Tensor, images: Tensor | None = None) -> Places:
        """In a full ring the oldest rows leave."""
        del images
        num_classes = len(self.pointer)
        groups = labels.masked_fill(~finite, num_classes)  # the refused are a group of their own
        in_order, order = torch.sort(groups, stable=True)
        place = torch.empty_like(labels).scatter_(0, order, place_in_run(in_order))
        count = torch.searchsorted(in_order, torch.arange(num_classes + 2, device=labels.device)).diff()
        slots = (self.pointer[labels] + place) % self.size
        kept = finite & (place >= (count - self.size)[groups])
        pointer = (self.pointer + count[:-1]) % self.size
        return Places(labels, slots, kept, count[-1], partial(self.pointer.copy_, pointer))


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
        return torch.argsort(self.slot.masked_fill(self.slot < 0, self.size), dim=1, stable=True)

    def place(self, labels: Tensor, finite: Tensor, images: Tensor | None = None) -> Places:
        """The last of several rows of one class and image stays."""
        assert images is not None
        names = labels * self.size + images
        numbers = names.masked_fill(~finite, self.slot.numel())
        in_order, order = torch.sort(numbers, stable=True)
        last = F.pad(in_order[1:] != in_order[:-1], (0, 1), value=True)
        kept = last & finite[order]
        of_images = self.slot.view(-1)[names[order]]
        new = kept & (of_images < 0)
        # A class's new images get its next slots: how many of them come before, in all and up to the class.
        before = new.cumsum(0) - new.long()
        classes = in_order.div(self.size, rounding_mode="floor")
        before = before - before[torch.searchsorted(classes, classes)]
        of_images = torch.where(new, self.filled[labels[order]] + before, of_images)
        slots = torch.empty_like(of_images).scatter_(0, order, of_images)
        kept = torch.empty_like(kept).scatter_(0, order, kept)
        values = slots.masked_fill(~kept, -1)
        advance = partial(self.slot.view(-1).scatter_reduce_, 0, names, values, "amax")
        return Places(labels, slots.clamp(min=0), kept, (~finite).sum(), advance)


def nbytes(module: nn.Module) -> int:
    """Bytes of a module's buffers."""
    return sum(buffer.nbytes for buffer in module.buffers())
