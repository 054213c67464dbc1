"""Maps of labels, logits and embeddings, read at the embedding's resolution."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-6
"""A vector shorter than this has no direction."""


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings [n, D] or [B, D, h, w] at unit length over D, in at least float32.

    Those without a direction become 0, and get no gradient, as it grows with 1/length: the one pixel whose
    features are all 0 after a ReLU would turn all embeddings its way in one step.
    """
    embeddings = at_least_float(embeddings)
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    return embeddings / F.threshold(length, _EPSILON, math.inf)


def pixel_rows(embeddings: Tensor, indices: Tensor) -> Tensor:
    """Rows [n, D] of a map [B, D, h, w] at flat pixel indices [n]; no copy of a map without gaps is made.

    The gradient lies in memory as the map does: another layout would be carried on into the whole network's
    backward pass, or be brought into this one at every sum.
    """
    if embeddings.is_contiguous(memory_format=torch.channels_last):
        return embeddings.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, indices)
    pixels = embeddings.flatten(2)
    num_pixels = pixels.shape[2]
    return pixels[indices.div(num_pixels, rounding_mode="floor"), :, indices % num_pixels]


def are_finite(rows: Tensor) -> Tensor:
    """Which rows [n, D] of length at most 1 hold neither NaN nor infinity: bool [n].

    By their sums: to ask every number takes 20 times as long on a CPU.
    """
    return rows.sum(dim=1) * 0 == 0


def read_at(map: Tensor, size: torch.Size, *, align_corners: bool) -> Tensor:
    """The pixels of a map [..., H, W] on which the cells of one of ``size`` (h, w) come to lie: [..., h, w].

    Upsampling, so aligned, gives these pixels their cell's value: the cross-entropy teaches a cell the label
    that is read here.
    """
    if map.shape[-2:] == size:
        return map
    rows, columns = (
        nearest(torch.arange(cells, device=map.device), cells, pixels, align_corners=align_corners)
        for cells, pixels in zip(size, map.shape[-2:], strict=True)
    )
    return map[..., rows[:, None], columns]


def nearest(places: Tensor, size: int, other: int, *, align_corners: bool) -> Tensor:
    """Where rows or columns of a map lie in one of another size: int64 places in [0, size) → in [0, other).

    Halves are rounded up.
    """
    if align_corners:
        return (2 * places * (other - 1) + size - 1).div(2 * max(size - 1, 1), rounding_mode="floor")
    return ((2 * places + 1) * other).div(2 * size, rounding_mode="floor")


@torch.no_grad()
def labels_and_errors(
    labels: Tensor, logits: Tensor, size: torch.Size, *, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Labels at a map's size, int64 [B, h, w], and which of its pixels are misclassified, bool [B, h, w]."""
    labels, logits = (read_at(map, size, align_corners=align_corners) for map in (labels, logits))
    return labels, logits.max(dim=1).indices != labels  # on CPUs several times faster than argmax


def boundaries(labels: Tensor, ignore_index: int) -> Tensor:
    """Pixels of labels [B, h, w] among whose eight neighbours is one of another class: bool [B, h, w]."""
    labels = labels[:, None]  # one channel: only the batch may be empty in a pooling
    ignored = labels == ignore_index
    highest = F.max_pool2d(labels.masked_fill(ignored, -(2**20)).float(), 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-labels.masked_fill(ignored, 2**20).float(), 3, stride=1, padding=1)
    return (~ignored & (highest != lowest)).squeeze(1)


def at_least_float(tensor: Tensor) -> Tensor:
    """float64 stays; anything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def region_means(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The average embedding of every class in every image, at unit length; 0 where the class does not occur.

    Args:
        embeddings: [B, D, h, w].
        labels: int64 [B, h, w]; a label outside 0 … num_classes − 1 takes no part.

    Returns:
        [B · num_classes, D], by image and class.
    """
    member = members(labels, num_classes)
    with torch.autocast(embeddings.device.type, enabled=False):
        sums = member.to(embeddings.dtype) @ embeddings.flatten(2).transpose(1, 2)  # [B, num_classes, D]
    return F.normalize(sums.flatten(0, 1), dim=1)


def members(labels: Tensor, num_classes: int) -> Tensor:
    """Which pixel of labels [B, h, w] is of which class: bool [B, num_classes, h·w]."""
    return labels.flatten(1)[:, None] == torch.arange(num_classes, device=labels.device)[:, None]


def run_means(rows: Tensor, lengths: Tensor) -> Tensor:
    """The mean direction [g, D] of each run of rows [n, D], ``lengths`` int64 [g] of them; 0 of none."""
    # Not index_add_, whose sums are of another order each time on a GPU.
    sums = torch.segment_reduce(rows, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
    return F.normalize(sums, dim=1)
