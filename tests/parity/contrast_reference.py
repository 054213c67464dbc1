"""The contrastive term written out: one process, one pixel at a time, float64. Slow and obvious."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pixelcontrast import draws

HARD, ANY, ENTRY, EXAMPLE = 1, 2, 3, 4


@dataclass
class Reference:
    """The same settings as ``PixelContrast``, on the whole global batch."""

    num_classes: int
    temperature: float = 0.1
    anchors_per_class: int = 50
    hard_share: float = 0.5
    queue_size: int = 0
    pixels_per_image: int = 10
    examples: str = "all"
    num_positives: int = 1024
    num_negatives: int = 2048
    seed: int = 0
    entries: list[tuple[int, int, Tensor]] = field(default_factory=list)
    """(class, how many of its class entered before, embedding) of all that ever entered the memory."""

    def step(
        self, embeddings: Tensor, labels: Tensor, wrong: Tensor, positions: Tensor
    ) -> tuple[Tensor, int]:
        """Loss of a global batch at the embedding's size, and its number of valid anchors; then enqueue."""
        anchors = self._anchors(labels, wrong, positions)
        memory = self._memory()
        order = self._order(memory, min((int(positions[b]) for b, _, _ in anchors), default=0))
        losses = []
        for anchor in anchors:
            b, y, x = anchor
            label = int(labels[b, y, x])
            positives, negatives = self._examples(label, memory, order)
            for other in anchors:
                if other != anchor:
                    same = int(labels[other]) == label
                    (positives if same else negatives).append(embeddings[other[0], :, other[1], other[2]])
            if positives:
                losses.append(self._eq3(embeddings[b, :, y, x], positives, negatives))
        self._enqueue(embeddings.detach(), labels, positions)
        return (torch.stack(losses).mean() if losses else 0.0 * embeddings.sum()), len(losses)

    def _eq3(self, anchor: Tensor, positives: list[Tensor], negatives: list[Tensor]) -> Tensor:
        total = sum(
            (torch.exp(anchor @ n / self.temperature) for n in negatives), torch.zeros((), dtype=anchor.dtype)
        )
        terms = []
        for p in positives:
            e = torch.exp(anchor @ p / self.temperature)
            terms.append(-torch.log(e / (e + total)))
        return torch.stack(terms).mean()

    def _anchors(self, labels: Tensor, wrong: Tensor, positions: Tensor) -> list[tuple[int, int, int]]:
        chosen = []
        for c in range(self.num_classes):
            pixels = [tuple(p) for p in torch.nonzero(labels == c).tolist()]
            hard = sorted(
                (p for p in pixels if wrong[p]), key=lambda p: self._key(HARD, p, labels, positions)
            )
            first = hard[: math.ceil(self.anchors_per_class * self.hard_share)]
            rest = sorted(
                (p for p in pixels if p not in first), key=lambda p: self._key(ANY, p, labels, positions)
            )
            chosen += first + rest[: self.anchors_per_class - len(first)]
        return chosen

    def _key(self, stream: int, pixel: tuple[int, ...], labels: Tensor, positions: Tensor) -> int:
        b, y, x = pixel
        return int(draws.hashed(self.seed, stream, int(positions[b]), y * labels.shape[2] + x))

    def _memory(self) -> list[tuple[int, int, Tensor]]:
        """(class, slot, embedding) of the newest ``queue_size`` entries of each class."""
        memory = []
        for c in range(self.num_classes):
            own = [entry for entry in self.entries if entry[0] == c]
            memory += (
                [(c, number % self.queue_size, row) for _, number, row in own[len(own) - self.queue_size :]]
                if (len(own) > self.queue_size)
                else [(c, number, row) for _, number, row in own]
            )
        return memory

    def _order(self, memory: list[tuple[int, int, Tensor]], key: int) -> list[int]:
        def slot_key(index: int) -> int:
            c, slot, _ = memory[index]
            return int(draws.hashed(self.seed, EXAMPLE, key, c * self.queue_size + slot))

        return sorted(range(len(memory)), key=slot_key)

    def _examples(
        self, label: int, memory: list[tuple[int, int, Tensor]], order: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        positives = [memory[i][2] for i in order if memory[i][0] == label]
        negatives = [memory[i][2] for i in order if memory[i][0] != label]
        if self.examples == "random":
            return positives[: self.num_positives], negatives[: self.num_negatives]
        return positives, negatives

    def _enqueue(self, embeddings: Tensor, labels: Tensor, positions: Tensor) -> None:
        if not self.queue_size:
            return
        for b in range(len(labels)):
            for c in range(self.num_classes):
                pixels = [(b, *p) for p in torch.nonzero(labels[b] == c).tolist()]
                pixels.sort(key=lambda p: self._key(ENTRY, p, labels, positions))
                for pixel in pixels[: self.pixels_per_image]:
                    number = sum(entry[0] == c for entry in self.entries)
                    self.entries.append((c, number, embeddings[pixel[0], :, pixel[1], pixel[2]].clone()))
