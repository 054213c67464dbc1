"""Pixel-wise cross-image contrast (Wang et al., ICCV 2021, Eq. 3), over all ranks and a memory."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast.banks import Queue, Shard, Slots
from pixelcontrast.contrast.diagnostics import Diagnostics
from pixelcontrast.contrast.enqueue import Entering, Projection, embed
from pixelcontrast.contrast.info_nce import Compared, Comparison, info_nce, no_blocks
from pixelcontrast.contrast.maps import boundaries, labels_at, predictions_at, unit
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.contrast.mining import ClassSums, Miner, Mining
from pixelcontrast.contrast.sampling import (
    Anchors,
    anchor_budgets,
    draw_anchors,
    labelled_pixels,
)
from pixelcontrast.distributed import Group

Term = Literal["separate", "joint"]
"""How batch and memory make up the loss."""


class PixelContrast(nn.Module):
    """The contrastive term for any training loop, in one process or under any ``torch.distributed`` group.

    The anchors of all ranks are gathered with gradient, so under DDP the gradients equal those of one process
    that holds the whole batch. This module has no parameters: do not wrap it in DDP; save its ``state_dict``.

        >>> import torch
        >>> from pixelcontrast.contrast import PixelContrast
        >>> network = torch.nn.Conv2d(3, 16 + 5, 1)  # any network that gives embeddings and logits
        >>> contrast = PixelContrast(num_classes=5, embedding_dim=16, pixel_queue_size=100)
        >>> images, labels = torch.rand(2, 3, 32, 32), torch.randint(5, (2, 32, 32))
        >>> embeddings, logits = network(images).split([16, 5], dim=1)
        >>> loss = torch.nn.functional.cross_entropy(logits, labels) + contrast(embeddings, labels, logits)
        >>> loss.backward()

    Args:
        num_classes: classes, labelled from 0.
        embedding_dim: D.
        temperature: τ.
        anchors_per_class: anchors of each class in a global batch, at most.
        hard_share: share of them drawn among the misclassified pixels (rounded up).
        rare_class_power: above 0, a class has the more anchors the fewer its pixels (``anchor_budgets``).
        pixel_queue_size: entries per class of the pixel queue; 0 for none.
        pixels_per_image: random pixels per class and image that enter the queue after the loss.
        boundary_share: share of them, rounded up, drawn next to pixels of another class where there are any:
            boundary-aware negatives (after Contextrast, arXiv 2404.10633).
        region_memory_size: entries per class of the region memory, each the average embedding of a class in
            an image; 0 for none.
        num_images: of the training set. Where ``region_memory_size`` is enough for all of them, each has its
            slot, and ``forward`` needs ``image_ids``; else the newest regions are kept.
        memory_dtype: in which the memory is stored.
        sharded: each rank stores a part of the memory, with which the anchors of all ranks are compared; else
            each rank stores all of it.
        memory_term: ``separate``: Eq. 3 over the batch plus ``memory_weight`` times Eq. 3 over the memory
            (after XBM, arXiv 1912.06798); ``joint``: one Eq. 3 over both, as in the paper.
        memory_max_age: steps after which an entry is no longer used; None: only newer ones replace it.
        only_correct: only pixels that are classified correctly at the time enter the memory.
        positive_mining, negative_mining: which entries of the memory an anchor is compared with, see
            ``mining.Miner``; it is always compared with the anchors of the batch.
        num_positives, num_negatives: K of the mining.
        semi_hard_share: of the entries, the part that semi-hard mining draws from.
        negative_margin: of filtered negatives.
        ignore_index: the label of pixels that take no part.
        seed: keys all draws.
        group: the ranks that share the batch; None is the default group.
        deferred: in training, what a batch changes in this module waits for ``keep``; without that call it is
            dropped by the next ``forward``, as if the batch had never been.

    Raises:
        ValueError: a setting that is out of its range.
    """

    next_position: Tensor
    steps: Tensor
    class_pixels: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        embedding_dim: int,
        temperature: float = 0.1,
        anchors_per_class: int = 50,
        hard_share: float = 0.5,
        rare_class_power: float = 0.0,
        pixel_queue_size: int = 0,
        pixels_per_image: int = 10,
        boundary_share: float = 0.0,
        region_memory_size: int = 0,
        num_images: int | None = None,
        memory_dtype: torch.dtype = torch.float32,
        sharded: bool = False,
        memory_term: Term = "separate",
        memory_weight: float = 1.0,
        memory_max_age: int | None = None,
        only_correct: bool = False,
        positive_mining: Mining = "random",
        negative_mining: Mining = "random",
        num_positives: int = 1024,
        num_negatives: int = 2048,
        semi_hard_share: float = 0.1,
        negative_margin: float = 0.0,
        ignore_index: int = 255,
        seed: int = 0,
        group: Group = None,
        deferred: bool = False,
    ):
        super().__init__()
        above_0 = {"temperature": temperature, "anchors_per_class": anchors_per_class}
        above_0 |= {"pixels_per_image": pixels_per_image, "semi_hard_share": semi_hard_share}
        above_0 |= {"num_positives": num_positives, "num_negatives": num_negatives}
        at_least_0 = {"pixel_queue_size": pixel_queue_size, "region_memory_size": region_memory_size}
        at_least_0 |= {"rare_class_power": rare_class_power, "memory_weight": memory_weight}
        shares = {"hard_share": hard_share, "semi_hard_share": semi_hard_share}
        shares |= {"boundary_share": boundary_share}
        _require(lambda value: value > 0, "must be above 0", above_0)
        _require(lambda value: value >= 0, "must not be below 0", at_least_0)
        _require(lambda value: 0 <= value <= 1, "must lie between 0 and 1", shares)
        if memory_max_age is not None:
            _require(lambda value: value > 0, "must be above 0", {"memory_max_age": memory_max_age})
        if memory_term not in get_args(Term):
            raise ValueError(f"memory_term is {memory_term!r}; there are {', '.join(get_args(Term))}")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
        self.num_classes, self.embedding_dim, self.temperature = num_classes, embedding_dim, temperature
        self.anchors_per_class, self.hard_share = anchors_per_class, hard_share
        self.rare_class_power, self.boundary_share = rare_class_power, boundary_share
        self.pixels_per_image = pixels_per_image
        self.shard = Shard(distributed.rank(group), distributed.world_size(group)) if sharded else Shard()
        num_positives, num_negatives = (-(-num // self.shard.of) for num in (num_positives, num_negatives))
        self.positive_miner = Miner(positive_mining, num_positives, semi_hard_share)
        self.negative_miner = Miner(negative_mining, num_negatives, semi_hard_share, negative_margin)
        self.memory_term, self.memory_weight = memory_term, memory_weight
        self.only_correct = only_correct
        self.ignore_index, self.seed, self.group = ignore_index, seed, group
        size = {"num_classes": num_classes, "embedding_dim": embedding_dim, "dtype": memory_dtype}
        size |= {"shard": self.shard}
        pixel = Queue(size=pixel_queue_size, max_age=memory_max_age, **size) if pixel_queue_size else None
        region = None
        if num_images is not None and num_images <= region_memory_size and memory_max_age is None:
            region = Slots(size=num_images, **size)
        elif region_memory_size:
            region = Queue(size=region_memory_size, max_age=memory_max_age, **size)
        self.memory = Memory(pixel, region)
        self.diagnostics = Diagnostics(num_classes, group)
        self.deferred = deferred
        self._waiting: list[Callable[[], object]] = []
        for name in ("next_position", "steps"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("class_pixels", torch.zeros(num_classes, dtype=torch.int64))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        logits: Tensor,
        *,
        positions: Tensor | None = None,
        image_ids: Tensor | None = None,
        project: Projection | None = None,
    ) -> Tensor:
        """The term's value on this rank; its mean over the ranks is the mean over all valid anchors.

        An anchor is valid if it has a positive. In training mode, the batch then enters the memory, at once
        or, ``deferred``, when ``keep`` is called.

        Args:
            embeddings: [B, D, h, w], of any length over D; B may differ between ranks, and be 0.
            labels: int64 [B, H, W] of any size; read at the nearest pixel.
            logits: [B, num_classes, ., .] of any size; only decides which pixels are misclassified.
            positions: int64 [B], the images' places in the global sample stream; without them the images are
                numbered on in rank order.
            image_ids: int64 [B], each image's number in the training set, from 0; needed where the region
                memory has a slot for every image, else not used.
            project: a head that makes of features [n, C] embeddings [n, D]. ``embeddings`` are
                then the features [B, C, h, w], and it runs on the pixels drawn only: anchors, what enters the
                queue, and of each class in an image at most 128 pixels for the region memory.

        Returns:
            A float32 scalar (float64 for float64 embeddings), connected to ``embeddings`` even where no pixel
            is labelled on any rank.

        Raises:
            ValueError: shapes that do not fit each other, an impossible label or image.
        """
        self._check(embeddings, labels, logits, image_ids, projected=project is None)
        self._waiting = []
        labels = labels_at(labels, embeddings.shape[-2:])
        wrong = predictions_at(logits, embeddings.shape[-2:]) != labels
        if positions is None:
            positions = self._count(len(embeddings))
        anchors = draw_anchors(
            labels,
            wrong,
            positions,
            budgets=self._budgets(labels),
            hard_share=self.hard_share,
            seed=self.seed,
            ignore_index=self.ignore_index,
            group=self.group,
        )
        own = unit(embed(embeddings, anchors.indices, project))
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self._loss(own, anchors)
        if self.training:
            entering = {"image_ids": image_ids, "project": project, "wrong": wrong}
            self._remember(embeddings.detach(), labels, positions, **entering)
        if not (self.deferred and self.training):
            self.keep()
        return loss

    def keep(self) -> None:
        """Let what the last batch changes come into effect, if it has not yet."""
        for change in self._waiting:
            change()
        self._waiting = []

    def _loss(self, own: Tensor, anchors: Anchors) -> Tensor:
        """The term of this rank's anchors [a, D]."""
        if len(anchors.labels) == 0:
            return own.sum()
        batch = distributed.all_gather_rows(own, self.group, counts=anchors.counts)
        step = int(self.steps)
        comparison = Comparison(
            labels=anchors.labels,
            counts=anchors.counts,
            here=anchors.here,
            positives=no_blocks,
            negatives=no_blocks,
            temperature=self.temperature,
            group=self.group,
        )
        in_batch = torch.bincount(anchors.labels, minlength=self.num_classes)
        in_memory = self.memory.usable(step) + torch.zeros_like(in_batch)
        with_memory = self._with_memory(comparison, batch, anchors.key, step)
        if self.memory_term == "joint" or not self.memory.banks:
            loss, met = self._mean(batch, with_memory, in_batch * ((in_batch > 1) | (in_memory > 0)))
        else:
            in_batch_loss, met = self._mean(batch, comparison, in_batch * (in_batch > 1))
            with_memory = replace(with_memory, in_batch=False)
            memory_loss, met_there = self._mean(batch, with_memory, in_batch * (in_memory > 0))
            loss, met = (
                in_batch_loss + self.memory_weight * memory_loss,
                Compared(met_there.memory, met.batch),
            )
        own_labels, hard = anchors.labels[anchors.here], anchors.hard[anchors.here]
        self._waiting.append(partial(self.diagnostics.add, batch.detach(), own_labels, hard, met))
        return loss

    def _mean(self, batch: Tensor, comparison: Comparison, valid: Tensor) -> tuple[Tensor, Compared]:
        """Eq. 3, its mean over the ranks being that over the valid anchors of all, counted by class."""
        total, met = info_nce(batch[comparison.here], batch, comparison)
        return total * distributed.world_size(self.group) / valid.sum().clamp(min=1), met

    def _with_memory(self, comparison: Comparison, batch: Tensor, key: int, step: int) -> Comparison:
        """The same comparison, with what the anchors are compared with in the memory."""
        if not self.memory.banks:
            return comparison
        examples = self.memory.examples(seed=self.seed, key=key, step=step)
        others = ClassSums.of(batch.detach(), comparison.labels, self.num_classes)
        return replace(
            comparison,
            positives=partial(self.positive_miner.positives, examples=examples),
            negatives=partial(self.negative_miner.negatives, examples=examples, in_batch=others),
            sharded=self.shard.of > 1,
        )

    def _remember(
        self,
        features: Tensor,
        labels: Tensor,
        positions: Tensor,
        *,
        image_ids: Tensor | None,
        project: Projection | None,
        wrong: Tensor,
    ) -> None:
        """Let the batch enter the memory when it is kept."""
        entering = Entering(
            features=features,
            labels=labels.masked_fill(wrong, self.ignore_index) if self.only_correct else labels,
            positions=positions,
            image_ids=image_ids,
            project=project,
            near_boundary=boundaries(labels, self.ignore_index) if self.boundary_share else None,
            num_classes=self.num_classes,
            pixels_per_image=self.pixels_per_image,
            boundary_share=self.boundary_share,
            ignore_index=self.ignore_index,
            seed=self.seed,
            group=self.group,
        )
        self._waiting += entering.changes(self.memory, step=int(self.steps))
        self._waiting.append(partial(self.steps.add_, 1))

    @torch.no_grad()
    def _budgets(self, labels: Tensor) -> Tensor:
        if self.rare_class_power == 0:
            return torch.full_like(self.class_pixels, self.anchors_per_class)
        _, classes = labelled_pixels(labels, self.num_classes, self.ignore_index)
        count = torch.bincount(classes, minlength=self.num_classes)
        seen = self.class_pixels + distributed.all_reduce(count, self.group)
        if self.training:
            self._waiting.append(partial(self.class_pixels.copy_, seen))
        return anchor_budgets(seen, per_class=self.anchors_per_class, rare_class_power=self.rare_class_power)

    @torch.no_grad()
    def _count(self, num_images: int) -> Tensor:
        """Positions for images that came without."""
        counts = distributed.gather_counts(num_images, self.group, device=self.next_position.device)
        before = sum(counts[: distributed.rank(self.group)])
        positions = self.next_position + before + torch.arange(num_images, device=self.next_position.device)
        if self.training:
            self._waiting.append(partial(self.next_position.add_, sum(counts)))
        return positions

    def _check(
        self, embeddings: Tensor, labels: Tensor, logits: Tensor, image_ids: Tensor | None, *, projected: bool
    ) -> None:
        if embeddings.ndim != 4 or (projected and embeddings.shape[1] != self.embedding_dim):
            raise ValueError(f"embeddings are [B, {self.embedding_dim}, h, w], not {list(embeddings.shape)}")
        if labels.ndim != 3 or labels.dtype != torch.int64:
            raise ValueError(f"labels are int64 [B, H, W], not {labels.dtype} {list(labels.shape)}")
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits are [B, {self.num_classes}, ., .], not {list(logits.shape)}")
        if not len(embeddings) == len(labels) == len(logits):
            sizes = f"{len(embeddings)}, {len(labels)} and {len(logits)}"
            raise ValueError(f"embeddings, labels and logits hold {sizes} images")
        if isinstance(self.memory.region, Slots) and self.training:
            _check_image_ids(image_ids, len(embeddings), self.memory.region.size)


def _require(allowed: Callable[[float], bool], says: str, values: dict[str, float]) -> None:
    for name, value in values.items():
        if not allowed(value):
            raise ValueError(f"{name} is {value}; it {says}")


def _check_image_ids(image_ids: Tensor | None, num_images: int, num_slots: int) -> None:
    if image_ids is None:
        raise ValueError("image_ids are needed: the region memory has a slot for every image")
    if image_ids.shape != (num_images,) or image_ids.dtype != torch.int64:
        raise ValueError(f"image_ids are int64 [{num_images}], not {image_ids.dtype} {list(image_ids.shape)}")
    if num_images and not 0 <= int(image_ids.min()) <= int(image_ids.max()) < num_slots:
        raise ValueError(f"image_ids hold {image_ids.tolist()}; allowed are 0 to {num_slots - 1}")
