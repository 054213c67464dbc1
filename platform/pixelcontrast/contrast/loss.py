"""Pixel-wise cross-image contrast (Wang et al., ICCV 2021, Eq. 3), over all ranks and a memory."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast.memory import Examples, PixelQueue
from pixelcontrast.contrast.sampling import Anchors, draw_anchors, draw_entries
from pixelcontrast.distributed import Group


def info_nce(anchors: Tensor, keys: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Eq. 3 for each anchor: the mean over its positives of −log(e^s⁺ / (e^s⁺ + Σ e^s⁻)), s = i·k/τ.

    Written as softplus(L − s⁺), L the log-sum-exp of the negatives, it needs no logarithm of a quotient.

    Args:
        anchors: [a, D], L2-normalised.
        keys: [n, D], L2-normalised.
        positive: bool [a, n].
        negative: bool [a, n], disjoint from ``positive``.

    Returns:
        [a]; 0 for an anchor without positives, and for one without negatives.
    """
    similarity = anchors @ keys.T / temperature
    # What is no negative counts as e⁻⁶⁰ of the largest one: nothing at either precision. A number so low that
    # exp underflows would take it 15 times as long, and with nothing but −inf the gradient would be NaN.
    largest = similarity.detach().masked_fill(~negative, -math.inf).amax(dim=1, keepdim=True)
    floor = (largest - 60).clamp(min=torch.finfo(similarity.dtype).min / 4)
    negatives = torch.logsumexp(torch.where(negative, similarity, floor), dim=1)
    # Positives are few: only they are gathered.
    rows, columns = torch.nonzero(positive, as_tuple=True)
    terms = F.softplus(negatives[rows] - similarity[rows, columns])
    return torch.zeros_like(negatives).index_add(0, rows, terms) / positive.sum(dim=1).clamp(min=1)


class PixelContrast(nn.Module):
    """The contrastive term for any training loop, in one process or under any ``torch.distributed`` group.

    The anchors of all ranks are gathered with gradient, so under DDP the gradients equal those of one process
    that holds the whole batch. This module has no parameters: do not wrap it in DDP; save its ``state_dict``.

        >>> import torch
        >>> from pixelcontrast.contrast import PixelContrast
        >>> network = torch.nn.Conv2d(3, 16 + 5, 1)  # any network that gives embeddings and logits
        >>> contrast = PixelContrast(num_classes=5, embedding_dim=16, queue_size=100)
        >>> images, labels = torch.rand(2, 3, 32, 32), torch.randint(5, (2, 32, 32))
        >>> embeddings, logits = network(images).split([16, 5], dim=1)
        >>> embeddings = torch.nn.functional.normalize(embeddings, dim=1)
        >>> loss = torch.nn.functional.cross_entropy(logits, labels) + contrast(embeddings, labels, logits)
        >>> loss.backward()

    Args:
        num_classes: classes, labelled from 0.
        embedding_dim: D.
        temperature: τ.
        anchors_per_class: anchors of each class in a global batch, at most.
        hard_share: share of them drawn among the misclassified pixels (rounded up).
        queue_size: entries per class of the pixel queue; 0 for none.
        pixels_per_image: random pixels per class and image that enter the queue after the loss.
        examples: which entries of the queue an anchor meets.
        num_positives, num_negatives: how many, when ``examples`` is ``"random"``.
        ignore_index: the label of pixels that take no part.
        seed: keys all draws.
        group: the ranks that share the batch; None is the default group.

    Raises:
        ValueError: a setting that is out of its range.
    """

    next_position: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        embedding_dim: int,
        temperature: float = 0.1,
        anchors_per_class: int = 50,
        hard_share: float = 0.5,
        queue_size: int = 5000,
        pixels_per_image: int = 10,
        examples: Literal["all", "random"] = "random",
        num_positives: int = 1024,
        num_negatives: int = 2048,
        ignore_index: int = 255,
        seed: int = 0,
        group: Group = None,
    ):
        super().__init__()
        sizes = {"anchors_per_class": anchors_per_class, "pixels_per_image": pixels_per_image}
        sizes |= {"num_positives": num_positives, "num_negatives": num_negatives}
        for name, value in (sizes | {"temperature": temperature}).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if not 0 <= hard_share <= 1:
            raise ValueError(f"hard_share is {hard_share}; it must lie between 0 and 1")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
        self.num_classes, self.embedding_dim, self.temperature = num_classes, embedding_dim, temperature
        self.anchors_per_class, self.hard_share = anchors_per_class, hard_share
        self.pixels_per_image, self.examples = pixels_per_image, examples
        self.num_positives, self.num_negatives = num_positives, num_negatives
        self.ignore_index, self.seed, self.group = ignore_index, seed, group
        self.queue = PixelQueue(num_classes, queue_size, embedding_dim) if queue_size else None
        self.register_buffer("next_position", torch.zeros((), dtype=torch.int64))

    def forward(
        self, embeddings: Tensor, labels: Tensor, logits: Tensor, *, positions: Tensor | None = None
    ) -> Tensor:
        """The term's value on this rank; its mean over the ranks is the mean over all valid anchors.

        An anchor is valid if it has a positive. In training mode, the batch's entries then enter the queue.

        Args:
            embeddings: [B, D, h, w], L2-normalised over D; B may differ between ranks, and be 0.
            labels: int64 [B, H, W] of any size; read at the nearest pixel.
            logits: [B, num_classes, ., .] of any size; only decides which pixels are misclassified.
            positions: int64 [B], the images' places in the global sample stream; without them the images are
                numbered on in rank order.

        Returns:
            A float32 scalar (float64 for float64 embeddings), connected to ``embeddings`` even where no pixel
            is labelled on any rank.

        Raises:
            ValueError: shapes that do not fit each other, or an impossible label.
        """
        self._check(embeddings, labels, logits)
        labels = _nearest(labels, embeddings.shape[-2:])
        wrong = _predictions(logits, embeddings.shape[-2:]) != labels
        if positions is None:
            positions = self._count(len(embeddings))
        anchors = draw_anchors(
            labels,
            wrong,
            positions,
            num_classes=self.num_classes,
            per_class=self.anchors_per_class,
            hard_share=self.hard_share,
            seed=self.seed,
            ignore_index=self.ignore_index,
            group=self.group,
        )
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self._loss(embeddings, anchors)
        if self.training and self.queue is not None:
            self._enqueue(embeddings.detach(), labels, positions)
        return loss

    def _loss(self, embeddings: Tensor, anchors: Anchors) -> Tensor:
        if len(anchors.labels) == 0:
            return _at_least_float(embeddings[:0]).sum()
        mine = _at_least_float(_pixel_rows(embeddings, anchors.indices))
        batch = distributed.all_gather_rows(mine, self.group, counts=anchors.counts)
        start = sum(anchors.counts[: distributed.rank(self.group)])
        labels = anchors.labels[start : start + len(mine)]

        positive = labels[:, None] == anchors.labels
        negative = ~positive
        itself = torch.arange(len(mine), device=mine.device)
        positive[itself, start + itself] = False
        keys = batch
        if self.queue is not None:
            memory = self._examples(labels, anchors.key)
            own = labels[:, None] == memory.labels
            positive = torch.cat([positive, own & memory.positive], dim=1)
            negative = torch.cat([negative, ~own & (memory.place < memory.end[labels][:, None])], dim=1)
            keys = torch.cat([batch, memory.rows.to(batch.dtype)])
        losses = info_nce(mine, keys, positive, negative, self.temperature)
        return losses.sum() * distributed.world_size(self.group) / max(self._num_valid(anchors.labels), 1)

    def _examples(self, labels: Tensor, key: int) -> Examples:
        assert self.queue is not None
        if self.examples == "all":
            return self.queue.all_examples()
        counts = {"num_positives": self.num_positives, "num_negatives": self.num_negatives}
        return self.queue.random_examples(labels.unique(), **counts, seed=self.seed, key=key)

    def _num_valid(self, labels: Tensor) -> int:
        """Anchors of all ranks that have a positive: another of their class in the batch, or in the queue."""
        count = torch.bincount(labels, minlength=self.num_classes)
        has_positive = count > 1 if self.queue is None else (count > 1) | (self.queue.filled > 0)
        return int(count[has_positive].sum())

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor, labels: Tensor, positions: Tensor) -> None:
        assert self.queue is not None
        entries = draw_entries(
            labels,
            positions,
            num_classes=self.num_classes,
            per_image=self.pixels_per_image,
            seed=self.seed,
            ignore_index=self.ignore_index,
        )
        classes = distributed.all_gather_rows(labels.flatten()[entries], self.group)
        rows = distributed.all_gather_rows(_at_least_float(_pixel_rows(embeddings, entries)), self.group)
        self.queue.enqueue(rows, classes)

    @torch.no_grad()
    def _count(self, num_images: int) -> Tensor:
        """Positions for images that came without."""
        counts = distributed.gather_counts(num_images, self.group, device=self.next_position.device)
        before = sum(counts[: distributed.rank(self.group)])
        positions = self.next_position + before + torch.arange(num_images, device=self.next_position.device)
        if self.training:
            self.next_position += sum(counts)
        return positions

    def _check(self, embeddings: Tensor, labels: Tensor, logits: Tensor) -> None:
        if embeddings.ndim != 4 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(f"embeddings are [B, {self.embedding_dim}, h, w], not {list(embeddings.shape)}")
        if labels.ndim != 3 or labels.dtype != torch.int64:
            raise ValueError(f"labels are int64 [B, H, W], not {labels.dtype} {list(labels.shape)}")
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits are [B, {self.num_classes}, ., .], not {list(logits.shape)}")
        if not len(embeddings) == len(labels) == len(logits):
            sizes = f"{len(embeddings)}, {len(labels)} and {len(logits)}"
            raise ValueError(f"embeddings, labels and logits hold {sizes} images")


def _pixel_rows(embeddings: Tensor, indices: Tensor) -> Tensor:
    """Rows [n, D] of a map [B, D, h, w] at flat pixel indices [n], without a permuted copy of the map."""
    pixels = embeddings.shape[2] * embeddings.shape[3]
    image = indices.div(pixels, rounding_mode="floor")
    return embeddings.flatten(2)[image, :, indices % pixels]


def _nearest(labels: Tensor, size: torch.Size) -> Tensor:
    """Labels [B, H, W] at the pixels on which the map's strided convolutions are centred: [B, h, w]."""
    rows, columns = (
        torch.arange(n, device=labels.device).mul(full).div(n, rounding_mode="floor")
        for n, full in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns]


@torch.no_grad()
def _predictions(logits: Tensor, size: torch.Size) -> Tensor:
    """Classes [B, h, w] predicted by logits of any size."""
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    return logits.argmax(dim=1)


def _at_least_float(tensor: Tensor) -> Tensor:
    """float64 stays; anything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
