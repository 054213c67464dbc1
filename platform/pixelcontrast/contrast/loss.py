"""Pixel-wise cross-image contrast (Wang et al., ICCV 2021, Eq. 3), over all ranks and a memory."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.contrast import inputs
from pixelcontrast.contrast.banks import Shard
from pixelcontrast.contrast.diagnostics import Diagnostics
from pixelcontrast.contrast.enqueue import (
    NOTHING,
    BatchDraw,
    Entering,
    Projection,
    at_boundaries,
    draw_entering,
    embed,
)
from pixelcontrast.contrast.hyperparameters import AnchorConfig, LossConfig, MemoryConfig, MiningConfig
from pixelcontrast.contrast.info_nce import Comparison, info_nce
from pixelcontrast.contrast.kept_dtypes import KeepsDtypes
from pixelcontrast.contrast.maps import labels_and_errors, unit
from pixelcontrast.contrast.memory import build_memory
from pixelcontrast.contrast.mining import build_miners
from pixelcontrast.contrast.sampling import (
    ANY,
    ENTRY,
    HARD,
    Anchors,
    Budgets,
    Pixels,
    choose_anchors,
    classes_of_pixels,
    equal_budgets,
    pixel_keys,
    rare_budgets,
    to_host,
)
from pixelcontrast.distributed import Group


class PixelContrast(KeepsDtypes):
    """The contrastive term for any training loop, in one process or under any ``torch.distributed`` group.

    The anchors of all ranks are gathered with gradient, so under DDP the gradients equal those of one process
    that holds the whole batch. This module has no parameters, and keeps its dtypes where the network is cast:
    do not wrap it in DDP; save its ``state_dict``, of every rank where the memory is sharded, and load what
    ``reshard`` makes of them.

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

        >>> from pixelcontrast.contrast import LossConfig, MemoryConfig
        >>> memory = MemoryConfig(memory="pixel", pixel_queue_size=100)
        >>> loss = LossConfig(temperature=0.07)
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
        memory: what is remembered of earlier batches; by default, or where the loss does not use it, nothing.
        mining: which examples of the memory an anchor is compared with; no effect without a memory.
        num_images: of the training set; the size of a memory follows from it where that is not set. If the
            region memory has a slot for every image, ``forward`` needs ``image_ids``.
        ignore_index: the label of pixels that take no part.
        seed: keys all draws.
        group: the ranks that share the batch; None is the default group.
        deferred: in training, what a batch changes in this module waits for ``keep``; the next ``forward``
            drops what still waits, as if that batch had never been. Where gradients of several batches are
            added up, ``keep`` each of them.

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
        loss: LossConfig = LossConfig(),
        anchors: AnchorConfig = AnchorConfig(),
        memory: MemoryConfig = MemoryConfig(),
        mining: MiningConfig = MiningConfig(),
        num_images: int | None = None,
        ignore_index: int = 255,
        seed: int = 0,
        group: Group = None,
        deferred: bool = False,
    ):
        super().__init__()
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
        anchors.check_positives(memory, loss)
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        self.loss, self.anchors, self.memory_config = loss, anchors, memory
        self.ignore_index, self.seed, self.group, self.deferred = ignore_index, seed, group, deferred
        of = distributed.world_size(group) if memory.memory_sharded else 1
        self.shard = Shard(distributed.rank(group) if of > 1 else 0, of)
        self.positive_miner, self.negative_miner = build_miners(mining, parts=of)
        self.memory = build_memory(
            memory if loss.uses_memory else replace(memory, memory="none"),
            num_classes=num_classes,
            embedding_dim=embedding_dim,
            num_images=num_images,
            shard=self.shard,
        )
        self.diagnostics = Diagnostics(num_classes, embedding_dim, group)
        self._waiting: list[Callable[[], object]] = []
        self._in_memory: Any = []  # Memory.counts of this step, on the host
        self._batch_key = 0  # names the batch of this step among all
        self.register_buffer("next_position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
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
        align_corners: bool = True,
    ) -> Tensor:
        """The term's value on this rank; its mean over the ranks is the mean over all valid anchors.

        An anchor is valid if it has a positive. In training mode, the batch then enters the memory, at once
        or, ``deferred``, by ``keep``.

        Args:
            embeddings: [B, D, h, w], of any length over D; B may differ between ranks, and be 0.
            labels: int64 [B, H, W] of any size; read at the pixels on which the embeddings lie.
            logits: [B, num_classes, ., .] of any size; only decides which pixels are misclassified.
            positions: int64 [B], the images' places in the global sample stream; by default the images are
                counted over all batches, in rank order.
            image_ids: int64 [B], each image's number in the training set, from 0; needed where the region
                memory has a slot for every image, else not used.
            project: a head that turns features [n, C] into embeddings [n, D], such as a ``ProjectionHead``.
                ``embeddings`` are then the features [B, C, h, w], and the head runs on drawn pixels only:
                anchors, what enters the queue, and for the region memory at most 128 pixels of each class in
                an image. Call under the network's autocast, as the head runs in here.
            align_corners: how the network upsamples its logits, as in ``interpolate``.

        Returns:
            A float32 scalar (float64 for float64 embeddings), connected to ``embeddings`` even where no pixel
            is labelled on any rank.

        Raises:
            ValueError: shapes or devices that do not fit each other, a label or an image id out of range, or
                a sharded memory that was built before its process group.
        """
        dim = self.embedding_dim if project is None else None
        inputs.check_inputs(embeddings, labels, logits, per_class=self.class_pixels, embedding_dim=dim)
        inputs.check_shards(self.memory, self.group, sharded=self.memory_config.memory_sharded)
        region = self.memory.region if self.training else None
        image_ids = inputs.check_image_ids(image_ids, embeddings, region)
        self._waiting = []
        size = embeddings.shape[-2:]
        labels, wrong = labels_and_errors(labels, logits, size, align_corners=align_corners)
        if positions is None:
            positions = self._count(len(embeddings))
        inputs.check_per_image("positions", positions, embeddings)
        drawn = self._draw(labels, wrong, positions, image_ids, by_pixel=project is not None)
        own = unit(embed(embeddings, drawn.anchors.indices, project))
        inputs.check_projected(own, self.embedding_dim)
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self._loss(own, drawn.anchors)
        if self.training:
            self._remember(drawn, embeddings.detach(), image_ids, project)
        if not (self.deferred and self.training):
            self.keep()
        return loss

    def keep(self) -> None:
        """Apply what the last batch changes, if that is still waiting (see ``deferred``)."""
        with torch.autocast(self.steps.device.type, enabled=False):  # half precision would blur, or overflow
            for change in self._waiting:
                change()
        self._waiting = []

    @torch.no_grad()
    def _draw(
        self, labels: Tensor, wrong: Tensor, positions: Tensor, image_ids: Tensor | None, *, by_pixel: bool
    ) -> BatchDraw:
        """Draw the anchors and what enters the memory, then look how many there are, which waits once."""
        classes, strange = classes_of_pixels(labels, self.num_classes, self.ignore_index)
        enters = self.training and bool(self.memory.banks)
        keys = pixel_keys(labels.shape, positions, self.seed, *(HARD, ANY, ENTRY)[: 2 + enters])
        entering = NOTHING
        if enters:
            entering = draw_entering(
                classes,
                keys[2],
                self.memory,
                self.memory_config,
                num_classes=self.num_classes,
                by_pixel=by_pixel,
                preferred=partial(at_boundaries, classes, positions, self.num_classes, self.seed),
            )
        first = positions.min() if len(positions) else positions.new_full((), torch.iinfo(torch.int64).max)
        misplaced = [] if image_ids is None else [inputs.misplaced_images(image_ids, self.memory.region)]
        chosen, notes = choose_anchors(
            Pixels(classes.flatten(), wrong.flatten(), keys[0], keys[1]),
            budgets=self._budgets(classes.flatten()),
            num_classes=self.num_classes,
            note=torch.stack([first, strange, *entering.counts(), *misplaced]),
            group=self.group,
        )
        looked_at = [chosen.look(self.group), notes]
        if self.memory.banks:
            looked_at.append(self.memory.counts(self.steps))
        seen, notes, *in_memory = to_host(looked_at)
        self._in_memory = in_memory[0] if in_memory else []
        self._batch_key = min(note[0] for note in notes)
        rank, strange_labels = distributed.rank(self.group), [note[1] for note in notes]
        refuse = partial(inputs.refuse_labels, labels, self.num_classes, self.ignore_index)
        inputs.check_ranges(strange_labels, rank, "labels", refuse)
        if misplaced:
            refuse = partial(inputs.refuse_image_ids, image_ids, self.memory.region)
            inputs.check_ranges([note[-1] for note in notes], rank, "image_ids", refuse)
        anchors = chosen.anchors(seen, wrong, self.group)
        return BatchDraw(anchors, entering, classes, [note[2:] for note in notes])

    def _loss(self, own: Tensor, anchors: Anchors) -> Tensor:
        """The term of this rank's anchors [a, D]."""
        if len(anchors.labels) == 0:
            return own.sum()
        batch = distributed.all_gather_rows(own, self.group, counts=anchors.counts)
        comparison = Comparison(
            labels=anchors.labels,
            counts=anchors.counts,
            here=anchors.here,
            temperature=self.loss.temperature,
            group=self.group,
        )
        if self.training:
            self._waiting.append(partial(self.diagnostics.add, batch.detach(), anchors))
        # Valid anchors have a positive: another anchor of their class, or a row of the memory.
        in_batch = [count > 1 for count in anchors.of_class]
        if not self.memory.banks:
            return self._mean(batch, comparison, anchors, in_batch)
        with_memory = self._with_memory(comparison, anchors)
        stored = [sum(of_banks) > 0 for of_banks in zip(*self._in_memory[0], strict=True)]
        if self.loss.memory_term == "joint":
            either = [any(pair) for pair in zip(in_batch, stored, strict=True)]
            return self._mean(batch, with_memory, anchors, either)
        batch_loss = self._mean(batch, comparison, anchors, in_batch)
        memory_loss = self._mean(batch, replace(with_memory, in_batch=False), anchors, stored)
        return batch_loss + self.loss.memory_weight * memory_loss

    def _mean(self, batch: Tensor, comparison: Comparison, anchors: Anchors, valid: list[bool]) -> Tensor:
        """Eq. 3 of this rank's anchors; its mean over the ranks is that over all of the ``valid`` classes."""
        total = info_nce(batch[comparison.here], batch, comparison)
        count = sum(count for count, is_valid in zip(anchors.of_class, valid, strict=True) if is_valid)
        return total * (distributed.world_size(self.group) / max(count, 1))

    def _with_memory(self, comparison: Comparison, anchors: Anchors) -> Comparison:
        """The same comparison, with what the anchors are compared with in the memory."""
        examples = self.memory.examples(
            seed=self.seed, key=self._batch_key, step=self.steps, counts=self._in_memory[1]
        )
        return replace(
            comparison,
            of_class=anchors.of_class if self.memory.is_sharded else anchors.own_of_class,
            positives=partial(self.positive_miner.positives, examples=examples),
            negatives=partial(self.negative_miner.negatives, examples=examples),
            sharded=self.memory.is_sharded,
        )

    def _remember(
        self, draw: BatchDraw, features: Tensor, image_ids: Tensor | None, project: Projection | None
    ) -> None:
        """Let the batch enter the memory when it is kept."""
        entering = Entering(
            features=features,
            classes=draw.classes,
            image_ids=image_ids,
            project=project,
            num_classes=self.num_classes,
            drawn=draw.entering,
            group=self.group,
        )
        for change in entering.changes(self.memory, counts=draw.counts, step=self.steps):
            self._waiting.append(partial(self._enter, change))
        self._waiting.append(partial(self.steps.add_, 1))

    def _enter(self, change: Callable[[], Tensor]) -> None:
        self.diagnostics.refused += change()

    def _budgets(self, classes: Tensor) -> Budgets:
        """How many anchors of each class the global batch may have, from this rank's pixels int64 [n]."""
        settings = self.anchors
        if settings.rare_class_power == 0:
            return equal_budgets(settings.anchors_per_class, settings.hard_share)
        count = classes.new_zeros(self.num_classes + 1).scatter_add_(0, classes, torch.ones_like(classes))
        seen = self.class_pixels + distributed.all_reduce(count[:-1], self.group)
        if self.training:
            self._waiting.append(partial(self.class_pixels.copy_, seen))
        return rare_budgets(
            seen,
            per_class=settings.anchors_per_class,
            rare_class_power=settings.rare_class_power,
            hard_share=settings.hard_share,
        )

    @torch.no_grad()
    def _count(self, num_images: int) -> Tensor:
        """int64 [num_images]: positions for images that came without."""
        counts = distributed.all_gather_equal(self.next_position.new_full((), num_images), self.group)
        before = self.next_position + counts[: distributed.rank(self.group)].sum()
        if self.training:
            self._waiting.append(partial(self.next_position.add_, counts.sum()))
        return before + torch.arange(num_images, device=before.device)
