"""The memory: embeddings of earlier batches, as further positives and negatives."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pixelcontrast import draws
from pixelcontrast.contrast.sampling import place_in_run

_EXAMPLE = 4
"""The stream of keys that examples are drawn with; sampling.py has 1 to 3."""


class Examples(NamedTuple):
    """Rows of the memory, and which anchors meet them.

    A row is a positive of the anchors of its own class where ``positive`` says so, and a negative of the
    anchors of another class c if its ``place`` in this step's order is before ``end[c]``.
    """

    rows: Tensor
    """[n, D], a copy: later enqueues do not reach it."""
    labels: Tensor
    """int64 [n]."""
    positive: Tensor
    """bool [n]."""
    place: Tensor
    """int64 [n]."""
    end: Tensor
    """int64 [num_classes]."""


class PixelQueue(nn.Module):
    """The newest ``size`` pixel embeddings of every class, each class a ring.

    Every rank enqueues the same gathered entries, so all copies are equal to the bit. The buffers are state
    to be saved and restored; this module must not be wrapped in DDP, whose buffer broadcast is not needed.
    """

    rows: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, num_classes: int, size: int, embedding_dim: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_classes, size, embedding_dim))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, rows: Tensor, labels: Tensor) -> None:
        """Let rows [n, D] of classes ``labels`` [n] in, in their order; in a full ring the oldest leave."""
        num_classes, size, _ = self.rows.shape
        order = torch.argsort(labels, stable=True)
        labels = labels[order]
        place, count = place_in_run(labels), torch.bincount(labels, minlength=num_classes)
        kept = place >= (count - size)[labels]
        slots = (self.pointer[labels] + place) % size
        self.rows[labels[kept], slots[kept]] = rows[order[kept]].to(self.rows.dtype)
        self.pointer.copy_((self.pointer + count) % size)
        self.filled.copy_((self.filled + count).clamp(max=size))

    def all_examples(self) -> Examples:
        """Every entry, for every anchor."""
        labels, slots = self._filled_slots()
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        return Examples(
            self.rows[labels, slots], labels, everywhere, 0 * labels, torch.ones_like(self.filled)
        )

    def random_examples(
        self, classes: Tensor, *, num_positives: int, num_negatives: int, seed: int, key: int
    ) -> Examples:
        """Draw, for each class, that many positives and negatives without replacement.

        A class's draw is shared by its anchors. One random order of all entries serves every class: it takes
        the first entries of its own and the first of the others, so each class's draw is uniform.

        Args:
            classes: int64 [k], the classes to draw for.
            key: a number that names the step; the same key gives the same draw.
        """
        labels, slots = self._filled_slots()
        num_classes, size, _ = self.rows.shape
        order = torch.argsort(draws.hashed(seed, _EXAMPLE, key, labels * size + slots), stable=True)
        labels, slots = labels[order], slots[order]
        place = torch.arange(len(labels), device=labels.device)

        by_class = torch.argsort(labels, stable=True)
        place_in_class = torch.empty_like(place)
        place_in_class[by_class] = place_in_run(labels[by_class])
        # An entry of class c lies among the first `num_negatives` entries of other classes if fewer than that
        # many of them stand before it; these entries push the end of c's negatives back, one each.
        inside = place - place_in_class < num_negatives
        end = num_negatives + torch.bincount(labels[inside], minlength=num_classes)

        positive = (place_in_class < num_positives) & torch.isin(labels, classes)
        furthest = end[classes].max() if len(classes) else 0
        used = positive | (place < furthest)
        return Examples(self.rows[labels[used], slots[used]], labels[used], positive[used], place[used], end)

    def _filled_slots(self) -> tuple[Tensor, Tensor]:
        """Classes and slots [n] of the entries that hold something."""
        slots = torch.arange(self.rows.shape[1], device=self.rows.device)
        classes, slots = torch.nonzero(slots < self.filled[:, None], as_tuple=True)
        return classes, slots
