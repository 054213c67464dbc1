"""Pixel-wise cross-image contrast (Wang et al., ICCV 2021, Eq. 3), over all ranks and a memory."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast.banks import Shard, Slots
from pixelcontrast.contrast.diagnostics import Diagnostics
from pixelcontrast.contrast.enqueue import Entering, Projection, embed
from pixelcontrast.contrast.hyperparameters import AnchorSampling, InfoNCE, MemoryConfig, Mining
from pixelcontrast.contrast.info_nce import Compared, Comparison, info_nce, no_blocks
from pixelcontrast.contrast.inputs import check_image_ids, check_inputs
from pixelcontrast.contrast.maps import boundaries, labels_at, predictions_at, unit
from pixelcontrast.contrast.memory import build_memory
from pixelcontrast.contrast.mining import ClassSums, build_miners
from pixelcontrast.contrast.sampling import (
    Anchors,
    anchor_budgets,
    draw_anchors,
    labelled_pixels,
)
from pixelcontrast.distributed import Group


class PixelContrast(nn.Module):
    """The contrastive term for any training loop, in one process or under any ``torch.distributed`` group.

    The anchors of all ranks are gathered with gradient, so under DDP the gradients equal those of one process
    that holds the whole batch. This module has no parameters: do not wrap it in DDP; save its ``state_dict``.

        >>> import torch
        >>> from torch import nn
        >>> from pixelcontrast.contrast import PixelContrast, ProjectionHead
        >>> backbone, classifier = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 5, 1)  # any network
        >>> head, contrast = ProjectionHead(32, 16), PixelContrast(num_classes=5, embedding_dim=16)
        >>> optimizer = torch.optim.SGD(nn.ModuleList([backbone, classifier, head]).parameters(), lr=0.01)
        >>> images, labels = torch.rand(2, 3, 32, 32), torch.randint(5, (2, 32, 32))
        >>> features = backbone(images)
        >>> logits, embeddings = classifier(features), head(features)
        >>> loss = nn.functional.cross_entropy(logits, labels) + contrast(embeddings, labels, logits)
        >>> loss.backward()
        >>> optimizer.step()

    Loss, anchors, memory and mining have their settings, whose defaults contrast within the batch:

        >>> from pixelcontrast.contrast import InfoNCE, MemoryConfig
        >>> memory = MemoryConfig(memory="pixel", pixel_queue_size=100)
        >>> loss = InfoNCE(temperature=0.07)
        >>> contrast = PixelContrast(num_classes=5, embedding_dim=16, loss=loss, memory=memory)
        >>> print(contrast.memory)
        Memory(
          (pixel): Queue(5 classes × 100 rows × 16 float32, 0.04 MB)
        )

    Args:
        num_classes: classes, labelled from 0.
        embedding_dim: D.
        loss: temperature, and how batch and memory make up the loss.
        anchors: how many pixels are anchors, and which.
        memory: what is remembered of earlier batches; by default nothing.
        mining: which examples of the memory an anchor is compared with.
        num_images: of the training set; the size of a memory follows from it where that is not set. If the
            region memory has a slot for every image, ``forward`` needs ``image_ids``.
        ignore_index: the label of pixels that take no part.
        seed: keys all draws.
        group: the ranks that share the batch; None is the default group.
        deferred: in training, what a batch changes in this module waits for ``keep``; the next ``forward``
            drops what still waits, as if that batch had never been.

    Raises:
        ValueError: ``ignore_index`` is a class, or a memory has no size.
    """

    next_position: Tensor
    steps: Tensor
    class_pixels: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        embedding_dim: int,
        loss: InfoNCE = InfoNCE(),
        anchors: AnchorSampling = AnchorSampling(),
        memory: MemoryConfig = MemoryConfig(),
        mining: Mining = Mining(),
        num_images: int | None = None,
        ignore_index: int = 255,
        seed: int = 0,
        group: Group = None,
        deferred: bool = False,
    ):
        super().__init__()
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        self.loss, self.anchors, self.memory_config = loss, anchors, memory
        self.ignore_index, self.seed, self.group, self.deferred = ignore_index, seed, group, deferred
        of = distributed.world_size(group) if memory.memory_sharded else 1
        self.shard = Shard(distributed.rank(group) if of > 1 else 0, of)
        self.positive_miner, self.negative_miner = build_miners(mining, parts=of)
        self.memory = build_memory(
            memory,
            num_classes=num_classes,
            embedding_dim=embedding_dim,
            num_images=num_images,
            shard=self.shard,
        )
        self.diagnostics = Diagnostics(num_classes, group)
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
            positions: int64 [B], the images' places in the global sample stream; by default the images are
                counted over all batches, in rank order.
            image_ids: int64 [B], each image's number in the training set, from 0; needed where the region
                memory has a slot for every image, else not used.
            project: a head that turns features [n, C] into embeddings [n, D], such as
                ``ProjectionHead.rows``. ``embeddings`` are then the features [B, C, h, w], and the head runs
                on drawn pixels only: anchors, what enters the queue, and for the region memory at most 128
                pixels of each class in an image.

        Returns:
            A float32 scalar (float64 for float64 embeddings), connected to ``embeddings`` even where no pixel
            is labelled on any rank.

        Raises:
            ValueError: shapes that do not fit each other, or a label or an image id that is out of range.
        """
        dim = self.embedding_dim if project is None else None
        check_inputs(embeddings, labels, logits, num_classes=self.num_classes, embedding_dim=dim)
        if isinstance(self.memory.region, Slots) and self.training:
            check_image_ids(image_ids, len(embeddings), self.memory.region.size)
        self._waiting = []
        labels = labels_at(labels, embeddings.shape[-2:])
        wrong = predictions_at(logits, embeddings.shape[-2:]) != labels
        if positions is None:
            positions = self._count(len(embeddings))
        anchors = self._draw(labels, wrong, positions)
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
        """Apply what the last batch changes, if that is still waiting (see ``deferred``)."""
        for change in self._waiting:
            change()
        self._waiting = []

    def _draw(self, labels: Tensor, wrong: Tensor, positions: Tensor) -> Anchors:
        """The anchors of the global batch, from every rank's labels [B, h, w]."""
        return draw_anchors(
            labels,
            wrong,
            positions,
            budgets=self._budgets(labels),
            hard_share=self.anchors.hard_share,
            seed=self.seed,
            ignore_index=self.ignore_index,
            group=self.group,
        )

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
            temperature=self.loss.temperature,
            group=self.group,
        )
        in_batch = torch.bincount(anchors.labels, minlength=self.num_classes)  # anchors of each class
        in_memory = self.memory.usable(step) + torch.zeros_like(in_batch)
        with_memory = self._with_memory(comparison, batch, anchors.key, step)
        # Valid anchors have a positive: another anchor of their class, or a row of the memory.
        if self.loss.memory_term == "joint" or not self.memory.banks:
            valid = in_batch * ((in_batch > 1) | (in_memory > 0))
            loss, compared = self._mean(batch, with_memory, valid)
        else:
            batch_loss, in_batch_only = self._mean(batch, comparison, in_batch * (in_batch > 1))
            with_memory = replace(with_memory, in_batch=False)
            memory_loss, in_memory_only = self._mean(batch, with_memory, in_batch * (in_memory > 0))
            loss = batch_loss + self.loss.memory_weight * memory_loss
            compared = Compared(in_memory_only.memory, in_batch_only.batch)
        own_labels, hard = anchors.labels[anchors.here], anchors.hard[anchors.here]
        self._waiting.append(partial(self.diagnostics.add, batch.detach(), own_labels, hard, compared))
        return loss

    def _mean(self, batch: Tensor, comparison: Comparison, valid: Tensor) -> tuple[Tensor, Compared]:
        """Eq. 3 of this rank's anchors; its mean over the ranks is that over all ``valid`` [num_classes]."""
        total, compared = info_nce(batch[comparison.here], batch, comparison)
        return total * distributed.world_size(self.group) / valid.sum().clamp(min=1), compared

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
        config = self.memory_config
        entering = Entering(
            features=features,
            labels=labels.masked_fill(wrong, self.ignore_index) if config.only_correct else labels,
            positions=positions,
            image_ids=image_ids,
            project=project,
            near_boundary=boundaries(labels, self.ignore_index) if config.boundary_share else None,
            config=config,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            seed=self.seed,
            group=self.group,
        )
        for change in entering.changes(self.memory, step=int(self.steps)):
            self._waiting.append(partial(self._enter, change))
        self._waiting.append(partial(self.steps.add_, 1))

    def _enter(self, change: Callable[[], Tensor]) -> None:
        self.diagnostics.refused += change()

    @torch.no_grad()
    def _budgets(self, labels: Tensor) -> Tensor:
        """int64 [num_classes]: how many anchors of each class the global batch may have."""
        per_class, power = self.anchors.anchors_per_class, self.anchors.rare_class_power
        if power == 0:
            return torch.full_like(self.class_pixels, per_class)
        _, classes = labelled_pixels(labels, self.num_classes, self.ignore_index)
        count = torch.bincount(classes, minlength=self.num_classes)
        seen = self.class_pixels + distributed.all_reduce(count, self.group)
        if self.training:
            self._waiting.append(partial(self.class_pixels.copy_, seen))
        return anchor_budgets(seen, per_class=per_class, rare_class_power=power)

    @torch.no_grad()
    def _count(self, num_images: int) -> Tensor:
        """int64 [num_images]: positions for images that came without."""
        counts = distributed.gather_counts(num_images, self.group, device=self.next_position.device)
        before = sum(counts[: distributed.rank(self.group)])
        positions = self.next_position + before + torch.arange(num_images, device=self.next_position.device)
        if self.training:
            self._waiting.append(partial(self.next_position.add_, sum(counts)))
        return positions
