"""The contrastive term written out: one process, one anchor at a time, float64. Slow and obvious."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast import draws

HARD, ANY, ENTRY, EXAMPLE = 1, 2, 3, 4

Pixel = tuple[int, int, int]
"""(image, row, column)"""


class Entered(NamedTuple):
    step: int
    row: Tensor


class Stored(NamedTuple):
    label: int
    slot: int
    """A number that tells it from all others: it names its draw."""
    row: Tensor


@dataclass
class Reference:
    """The same settings as ``PixelContrast``, on the whole global batch."""

    num_classes: int
    temperature: float = 0.1
    anchors_per_class: int = 50
    hard_share: float = 0.5
    rare_class_power: float = 0.0
    pixel_queue_size: int = 5000
    pixels_per_image: int = 10
    region_memory_size: int = 1000
    num_images: int | None = None
    memory_dtype: str = "float64"
    memory_term: str = "separate"
    memory_weight: float = 1.0
    memory_max_age: int | None = None
    positive_mining: str = "random"
    negative_mining: str = "random"
    num_positives: int = 1024
    num_negatives: int = 2048
    semi_hard_share: float = 0.1
    seed: int = 0
    now: int = 0
    """The number of the step."""
    pixels: dict[int, list[Entered]] = field(default_factory=dict)
    """Per class, all pixels that ever entered, in order."""
    regions: dict[int, list[Entered]] = field(default_factory=dict)
    region_of_image: dict[tuple[int, int], Entered] = field(default_factory=dict)
    """(class, image) → the newest region."""
    seen: dict[int, int] = field(default_factory=dict)
    """Pixels of each class in all batches so far."""

    def step(
        self, embeddings: Tensor, labels: Tensor, wrong: Tensor, positions: Tensor, image_ids: Tensor
    ) -> tuple[Tensor, int]:
        """Loss of a global batch at the embedding's size, and its number of valid anchors; then enqueue.

        Embeddings may have any length.
        """
        for c in labels[labels < self.num_classes].tolist():
            self.seen[c] = self.seen.get(c, 0) + 1
        anchors = self._anchors(labels, wrong, positions)
        embeddings = embeddings / embeddings.square().sum(dim=1, keepdim=True).sqrt()
        memory = self._memory()
        keys = self._example_keys(memory, int(positions.min()))
        batch_losses, memory_losses, joint_losses = [], [], []
        for anchor in anchors:
            vector, label = embeddings[anchor[0], :, anchor[1], anchor[2]], int(labels[anchor])
            others = [other for other in anchors if other != anchor]
            rows = {other: embeddings[other[0], :, other[1], other[2]] for other in others}
            positives = [rows[other] for other in others if labels[other] == label]
            negatives = [rows[other] for other in others if labels[other] != label]
            same = [entry for entry in memory if entry.label == label]
            rest = [entry for entry in memory if entry.label != label]
            stored_positives = self._mined(vector, same, keys, hard_is_near=False)
            stored_negatives = self._mined(vector, rest, keys, hard_is_near=True)
            if positives:
                batch_losses.append(self._eq3(vector, positives, negatives))
            if stored_positives:
                memory_losses.append(self._eq3(vector, stored_positives, stored_negatives))
            if positives + stored_positives:
                rows_of_both = positives + stored_positives, negatives + stored_negatives
                joint_losses.append(self._eq3(vector, *rows_of_both))
        self._enqueue(embeddings.detach(), labels, positions, image_ids)
        self.now += 1
        nothing = 0.0 * embeddings.sum()
        if self.memory_term == "joint":
            loss = _mean(joint_losses, nothing)
        else:
            loss = _mean(batch_losses, nothing) + self.memory_weight * _mean(memory_losses, nothing)
        return loss, len(joint_losses)

    def _eq3(self, anchor: Tensor, positives: list[Tensor], negatives: list[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=anchor.dtype)
        if negatives:
            total = torch.exp(torch.stack(negatives) @ anchor / self.temperature).sum()
        e = torch.exp(torch.stack(positives) @ anchor / self.temperature)
        return -torch.log(e / (e + total)).mean()

    def _mined(
        self, anchor: Tensor, candidates: list[Stored], keys: dict[int, int], *, hard_is_near: bool
    ) -> list[Tensor]:
        mining, num = self.positive_mining, self.num_positives
        if hard_is_near:
            mining, num = self.negative_mining, self.num_negatives

        if mining in ("hardest", "semi-hard") and candidates:
            similarity = (torch.stack([entry.row for entry in candidates]) @ anchor.detach()).tolist()
            order = sorted(range(len(candidates)), key=lambda i: similarity[i], reverse=hard_is_near)
            candidates = [candidates[i] for i in order]
        if mining == "semi-hard":
            candidates = candidates[: math.ceil(self.semi_hard_share * len(candidates))]
        if mining in ("random", "semi-hard"):
            candidates = sorted(candidates, key=lambda entry: keys[entry.slot])
        return [entry.row for entry in (candidates if mining == "all" else candidates[:num])]

    def _anchors(self, labels: Tensor, wrong: Tensor, positions: Tensor) -> list[Pixel]:
        hard_keys, any_keys = (self._pixel_keys(s, labels, positions) for s in (HARD, ANY))
        chosen: list[Pixel] = []
        for c in range(self.num_classes):
            budget = self._budget(c)
            pixels = _pixels_of(labels, c)
            hard = sorted((p for p in pixels if wrong[p]), key=lambda p: int(hard_keys[p]))
            first = hard[: math.ceil(budget * self.hard_share)]
            rest = sorted((p for p in pixels if p not in first), key=lambda p: int(any_keys[p]))
            chosen += first + rest[: budget - len(first)]
        return chosen

    def _budget(self, c: int) -> int:
        if not self.rare_class_power or c not in self.seen:
            return self.anchors_per_class
        weights = {k: n**-self.rare_class_power for k, n in self.seen.items()}
        most, left = 4 * self.anchors_per_class, self.anchors_per_class * len(weights)
        while True:  # what is above goes to the others, of whom some may then be above
            above = [k for k in weights if weights[k] * left > most * sum(weights.values())]
            if c in above:
                return most
            if not above:
                return max(2, round(left * weights[c] / sum(weights.values())))
            left -= most * len(above)
            weights = {k: weight for k, weight in weights.items() if k not in above}

    def _pixel_keys(self, stream: int, labels: Tensor, positions: Tensor) -> Tensor:
        """Each pixel's key: [B, h, w]."""
        numbers = torch.arange(labels[0].numel()).view(labels.shape[1:])
        return torch.stack([draws.hashed(self.seed, stream, int(p), numbers) for p in positions])

    def _example_keys(self, memory: list[Stored], key: int) -> dict[int, int]:
        slots = torch.tensor([entry.slot for entry in memory], dtype=torch.int64)
        return dict(zip(slots.tolist(), draws.hashed(self.seed, EXAMPLE, key, slots).tolist(), strict=True))

    @property
    def _has_slots(self) -> bool:
        fits = self.num_images is not None and self.num_images <= self.region_memory_size
        return fits and self.memory_max_age is None

    def _memory(self) -> list[Stored]:
        memory = self._newest(self.pixels, self.pixel_queue_size, first_slot=0)
        first = self.num_classes * self.pixel_queue_size
        if not self._has_slots:
            return memory + self._newest(self.regions, self.region_memory_size, first_slot=first)
        assert self.num_images is not None
        return memory + [
            Stored(c, first + c * self.num_images + image, entered.row)
            for (c, image), entered in self.region_of_image.items()
        ]

    def _newest(self, entered: dict[int, list[Entered]], size: int, *, first_slot: int) -> list[Stored]:
        """The last ``size`` rows of every class, without those that are too old."""
        memory = []
        for c, rows in entered.items():
            for number, (step, row) in list(enumerate(rows))[max(len(rows) - size, 0) :]:
                if self.memory_max_age is None or self.now - step <= self.memory_max_age:
                    memory.append(Stored(c, first_slot + c * size + number % max(size, 1), row))
        return memory

    def _enqueue(self, embeddings: Tensor, labels: Tensor, positions: Tensor, image_ids: Tensor) -> None:
        keys = self._pixel_keys(ENTRY, labels, positions)
        for b in range(len(labels)):
            for c in range(self.num_classes):
                pixels = [p for p in _pixels_of(labels, c) if p[0] == b]
                rows = {p: embeddings[b, :, p[1], p[2]] for p in sorted(pixels, key=lambda p: int(keys[p]))}
                for row in list(rows.values())[: self.pixels_per_image]:
                    self.pixels.setdefault(c, []).append(self._stored(row))
                if rows:
                    region = F.normalize(torch.stack(list(rows.values())).mean(dim=0), dim=0)
                    self.regions.setdefault(c, []).append(self._stored(region))
                    self.region_of_image[c, int(image_ids[b])] = self._stored(region)

    def _stored(self, row: Tensor) -> Entered:
        return Entered(self.now, row.to(getattr(torch, self.memory_dtype)).to(row.dtype))


def _mean(losses: list[Tensor], otherwise: Tensor) -> Tensor:
    return torch.stack(losses).mean() if losses else otherwise


def _pixels_of(labels: Tensor, c: int) -> list[Pixel]:
    return [(b, y, x) for b, y, x in torch.nonzero(labels == c).tolist()]
