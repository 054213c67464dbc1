"""One optimiser step. Every mean is over the global batch, so W workers train what one would."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from pixelcontrast import distributed
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import Output, SegmentationModel
from pixelcontrast.training.optim import parameters


class Losses(NamedTuple):
    """This rank's losses, scaled so that their mean over the ranks is the global batch's."""

    total: Tensor
    ce: Tensor
    contrast: Tensor | None
    auxiliary: Tensor | None
    gradient_norm: Tensor
    """Of the global batch, before clipping; not finite if one gradient is not."""
    kept: bool = True
    """Whether the step has changed anything."""


def train_step(
    network: nn.Module,
    contrast: PixelContrast | None,
    optimizer: SGD,
    batch: Batch,
    *,
    contrast_weight: float,
    auxiliary_weight: float = 0.4,
    class_weights: Tensor | None = None,
    clip_norm: float | None = None,
    autocast: torch.dtype | None = None,
    skip_non_finite: bool = False,
) -> Losses:
    """Forward, backward and update.

    Args:
        network: a ``SegmentationModel``, wrapped in DDP where there are several workers.
        contrast: None for the cross-entropy baseline.
        batch: this rank's slice of the global batch.
        contrast_weight: λ; 0 during warm-up, when the term is computed but teaches nothing.
        auxiliary_weight: of the auxiliary head's cross-entropy, where the network has such a head.
        class_weights: [C] for the cross-entropies.
        autocast: dtype of the network's operators; the losses stay in float32.
        skip_non_finite: where a rank's loss or the gradients' norm is not finite, change nothing: neither
            weights and momentum nor BatchNorm's statistics and the memory. Waits for the GPU.
    """
    statistics = [buffer.clone() for buffer in network.buffers()] if skip_non_finite else []
    with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
        output = network(batch.images)
    ce = cross_entropy(output.logits, batch.labels, class_weights)
    total, auxiliary, term = ce, None, None
    if output.auxiliary is not None:
        auxiliary = cross_entropy(output.auxiliary, batch.labels, class_weights)
        total = total + auxiliary_weight * auxiliary
    if contrast is not None:
        with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
            term = _contrast(network, contrast, batch, output)
        total = total + contrast_weight * term

    optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.get_total_norm([p.grad for p in parameters(optimizer) if p.grad is not None])
    kept = not skip_non_finite or _finite_on_all_ranks(total.detach(), norm)
    if kept:
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters(optimizer), clip_norm, norm)
        optimizer.step()
        if contrast is not None:
            contrast.keep()
    else:
        for buffer, before in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(before)
    return Losses(
        total=total.detach(),
        ce=ce.detach(),
        contrast=None if term is None else term.detach(),
        auxiliary=None if auxiliary is None else auxiliary.detach(),
        gradient_norm=norm,
        kept=kept,
    )


def _contrast(network: nn.Module, contrast: PixelContrast, batch: Batch, output: Output) -> Tensor:
    """The contrastive term; a head that can runs on the pixels drawn only."""
    model = network.module if isinstance(network, DistributedDataParallel) else network
    assert isinstance(model, SegmentationModel)
    assert model.projection is not None
    assert output.features is not None
    head, kept = model.projection, {"positions": batch.positions, "image_ids": batch.indices}
    if head.pixelwise:
        return contrast(output.features, batch.labels, output.logits, project=head.rows, **kept)
    return contrast(head(output.features), batch.labels, output.logits, **kept)


def _finite_on_all_ranks(*numbers: Tensor) -> bool:
    bad = ~torch.stack([number.isfinite() for number in numbers]).all()
    return not bool(distributed.all_reduce(bad.int()))


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy whose mean over the ranks is that of all valid pixels of the global batch.

    Args:
        logits: [B, C, H, W].
        labels: int64 [B, H, W], 255 ignored.
        class_weights: [C]; the mean is then weighted by them.

    Returns:
        A scalar; 0, connected to the logits, where no pixel of the global batch is labelled.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if class_weights is not None:
        class_weights = class_weights.to(logits.dtype)
    summed = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    valid = labels != IGNORE_INDEX
    count = valid.sum() if class_weights is None else class_weights[labels[valid]].sum()
    count = distributed.all_reduce(count.to(logits.dtype))
    return summed * distributed.world_size() / torch.where(count > 0, count, torch.ones_like(count))
