"""One optimiser step. Every mean is over the global batch, so W workers train what one would."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pixelcontrast import distributed
from pixelcontrast.config import Run
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
    """Norm over the global batch, before clipping; not finite if one gradient is not."""
    kept: bool = True
    """Whether the step has changed anything."""
    feature_gradients: Tensor | None = None
    """float64 [3], where they were measured: the squared norms of the contrast's and of the other losses'
    gradient on this rank's features, and their inner product."""


def train_step(
    network: nn.Module,
    contrast: PixelContrast | None,
    optimizer: Optimizer,
    batch: Batch,
    *,
    contrast_weight: float,
    head_only: bool = False,
    auxiliary_weight: float = 0.4,
    class_weights: Tensor | None = None,
    clip_norm: float | None = None,
    autocast: torch.dtype | None = None,
    skip_non_finite: bool = False,
    measure_gradients: bool = False,
) -> Losses:
    """Forward, backward and update.

    Args:
        network: a ``SegmentationModel``, wrapped in DDP where there are several workers.
        contrast: None for the cross-entropy baseline.
        batch: this rank's slice of the global batch.
        contrast_weight: λ.
        head_only: the contrast trains the projection head alone, on detached features.
        auxiliary_weight: of the auxiliary head's cross-entropy, where the network has such a head.
        class_weights: [C] for the cross-entropies.
        autocast: dtype of the network's operators; the losses stay in float32.
        skip_non_finite: where a rank's loss or the gradients' norm is not finite, change nothing: neither
            weights and momentum nor BatchNorm's statistics and the memory. Waits for the GPU.
        measure_gradients: return ``feature_gradients``, at the cost of a few operations on the feature map;
            only where the contrast's gradient reaches the features.
    """
    statistics = [buffer.clone() for buffer in network.buffers()] if skip_non_finite else None
    terms = compute_terms(
        network,
        contrast,
        batch,
        contrast_weight=contrast_weight,
        head_only=head_only,
        auxiliary_weight=auxiliary_weight,
        class_weights=class_weights,
        autocast=autocast,
        measure_gradients=measure_gradients,
    )
    norm = backward(terms.total, optimizer)
    kept = statistics is None or _finite_on_all_ranks(terms.total.detach(), norm)
    if kept:
        update(optimizer, contrast, norm, clip_norm=clip_norm)
    else:
        for buffer, before in zip(network.buffers(), statistics or (), strict=True):
            buffer.copy_(before)
    return terms.detached(norm, kept=kept)


class Terms(NamedTuple):
    """This rank's losses with their graph, scaled as ``Losses``."""

    total: Tensor
    ce: Tensor
    contrast: Tensor | None
    auxiliary: Tensor | None
    gradients: "_FeatureGradients | None"
    """Records what ``Losses.feature_gradients`` needs during backward."""

    def detached(self, norm: Tensor, *, kept: bool) -> Losses:
        """What is reported of them, after backward."""
        return Losses(
            total=self.total.detach(),
            ce=self.ce.detach(),
            contrast=None if self.contrast is None else self.contrast.detach(),
            auxiliary=None if self.auxiliary is None else self.auxiliary.detach(),
            gradient_norm=norm,
            kept=kept,
            feature_gradients=None if self.gradients is None else self.gradients.products(),
        )


def compute_terms(
    network: nn.Module,
    contrast: PixelContrast | None,
    batch: Batch,
    *,
    contrast_weight: float,
    head_only: bool,
    auxiliary_weight: float,
    class_weights: Tensor | None,
    autocast: torch.dtype | None,
    measure_gradients: bool,
) -> Terms:
    """The forward pass: CE + auxiliary_weight · auxiliary CE + contrast_weight · contrast.

    Arguments as of ``train_step``.
    """
    with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
        output = network(batch.images)
    ce = cross_entropy(output.logits, batch.labels, class_weights)
    total, auxiliary, term, gradients = ce, None, None, None
    if output.auxiliary is not None:
        auxiliary = cross_entropy(output.auxiliary, batch.labels, class_weights)
        total = total + auxiliary_weight * auxiliary
    if contrast is not None:
        assert output.features is not None
        # A view of its own, to tell what the contrast sends back from what the classifier does.
        features = output.features.detach() if head_only else output.features.view_as(output.features)
        if measure_gradients and features.requires_grad:
            assert output.uncropped is not None
            gradients = _FeatureGradients(output.uncropped, features)
        with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
            term = _contrast(network, contrast, batch, features, output)
        total = total + contrast_weight * term
    return Terms(total, ce, term, auxiliary, gradients)


def backward(loss: Tensor, optimizer: Optimizer) -> Tensor:
    """Replace the parameters' gradients by those of ``loss``; returns their norm over all parameters."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return nn.utils.get_total_norm([p.grad for p in parameters(optimizer) if p.grad is not None])


def update(
    optimizer: Optimizer, contrast: PixelContrast | None, norm: Tensor, *, clip_norm: float | None
) -> None:
    """Let the gradients, clipped from their ``norm``, change the weights; the batch enters the memory."""
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters(optimizer), clip_norm, norm)
    optimizer.step()
    if contrast is not None:
        contrast.keep()


def _contrast(
    network: nn.Module, contrast: PixelContrast, batch: Batch, features: Tensor, output: Output
) -> Tensor:
    """The contrastive term of the output's features; a head that can runs on the pixels drawn only."""
    model = network.module if isinstance(network, DistributedDataParallel) else network
    assert isinstance(model, SegmentationModel)
    assert model.projection is not None
    call = partial(
        contrast,
        labels=model.read_at_cells(batch.labels, output, padding=IGNORE_INDEX),
        logits=model.read_at_cells(output.logits.detach(), output, padding=0),
        positions=batch.positions,
        image_ids=batch.indices,
    )
    if model.projection.pixelwise:
        return call(features, project=model.projection)
    return call(model.projection(features))


def autocast_dtype(run: Run) -> torch.dtype | None:
    """The dtype of the network's operators; None where that is the parameters' own."""
    return torch.bfloat16 if run.precision == "bfloat16" else None


class _FeatureGradients:
    """Records, in the backward pass, the gradients that the losses have on the features.

    Args:
        uncropped: [B, C, H, W], what the decoder and the contrast are made of.
        features: a view of its part [B, C, h, w] that the contrast alone is made of.
    """

    def __init__(self, uncropped: Tensor, features: Tensor):
        self._grads: dict[str, Tensor] = {}
        uncropped.register_hook(partial(self._grads.__setitem__, "all"))
        features.register_hook(partial(self._grads.__setitem__, "contrast"))

    def products(self) -> Tensor:
        """``Losses.feature_gradients``, after backward."""
        contrast, every = self._grads["contrast"], self._grads["all"]
        padding = (0, every.shape[3] - contrast.shape[3], 0, every.shape[2] - contrast.shape[2])
        found = torch.zeros(3, dtype=torch.float64, device=every.device)
        for own, whole in zip(contrast, every, strict=True):  # by image: whole maps in float64 are large
            part = F.pad(own.double(), padding).flatten()
            others = whole.double().flatten() - part
            found += torch.stack([part @ part, others @ others, part @ others])
        return found


def _finite_on_all_ranks(*numbers: Tensor) -> bool:
    bad = ~torch.stack([number.isfinite() for number in numbers]).all()
    return not bool(distributed.on_host(distributed.all_reduce(bad.int())))


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
    count = valid.sum()
    if class_weights is not None:  # not class_weights[labels[valid]]: a GPU would be waited for
        count = (class_weights[labels.masked_fill(~valid, 0)] * valid).sum()
    count = distributed.all_reduce(count.to(logits.dtype))
    return summed * distributed.world_size() / torch.where(count > 0, count, torch.ones_like(count))
