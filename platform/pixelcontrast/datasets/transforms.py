"""Joint transforms of an image and its label.

Every draw is a function of (seed, position), and the arithmetic is integer or rounds once per operation, so
that a crop is bitwise the same in any process and for any number of threads.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pixelcontrast.config import Data
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.draws import uniform

_STREAM = int.from_bytes(b"augment")
"""Sets these draws apart from all others that are keyed on (seed, position)."""
_MOST_DRAWS = 10
"""Crops of a sample that are looked at, with ``data.max_class_share``; the last one stands."""
_LUMINANCE = (0.299, 0.587, 0.114)


class Normalization(NamedTuple):
    """Mean and standard deviation of red, green and blue in [0, 1] that a backbone's weights expect."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What most of timm's weights expect."""


class _Draws(NamedTuple):
    """What is random about a crop, each uniform in [0, 1)."""

    scale: float
    top: float
    left: float
    flip: float
    brightness: float
    contrast: float
    saturation: float


class _Span(NamedTuple):
    """One axis of a crop: which part of the image is seen, and where in the crop it lies."""

    start: int
    length: int
    target: int
    extent: int

    @property
    def source(self) -> slice:
        return slice(self.start, self.start + self.length)

    def mirrored(self, crop: int) -> "_Span":
        """The same part of the image, in a crop of that extent which is read from its other end."""
        return self._replace(target=crop - self.target - self.extent)


def train_transform(
    image: Tensor,
    label: Tensor,
    *,
    data: Data,
    seed: int,
    position: int,
    normalization: Normalization = IMAGENET,
) -> tuple[Tensor, Tensor]:
    """Scale, crop, flip and colour-jitter, by draws that are a function of (seed, position).

    The scale is uniform in ``data.scale_range``. Only the window that maps to the crop is resized: bilinear
    with antialiasing for the image, nearest for the label. A window larger than the image holds all of it at
    a random place; around it the label is ignored and the image has the mean colour. With
    ``data.max_class_share`` the place of a crop that one class dominates is drawn anew, at the same scale.

    Args:
        image: uint8 [3, H, W]; only the window is read, so that it may be a view of a mapped file.
        label: uint8 [H, W], train ids; likewise.
        data: crop_size, scale_range, flip_probability, color_jitter and max_class_share are used.
        seed: the run's seed.
        position: the sample's place in the stream.
        normalization: the backbone's mean and standard deviation.

    Returns:
        The crop, float32 [3, *crop_size], normalised, and its train ids, int64 [*crop_size].
    """
    draws = _Draws(*uniform(seed, _STREAM, position, torch.arange(len(_Draws._fields))).tolist())
    rows, columns = _place(label, data=data, seed=seed, position=position, draws=draws)
    size = [rows.extent, columns.extent]
    image, label = image[:, rows.source, columns.source], label[None, rows.source, columns.source]
    image = F.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    # NEAREST would shift the label by half a pixel against the bilinear image.
    label = F.resize(label, size, interpolation=InterpolationMode.NEAREST_EXACT, antialias=False)
    if draws.flip < data.flip_probability:  # while the image has one byte per value
        image, label = F.horizontal_flip(image), F.horizontal_flip(label)
        columns = columns.mirrored(data.crop_size[1])
    image = normalize(_jittered(image, data.color_jitter, draws), normalization)
    padding = _padding(rows, columns, data.crop_size)
    if any(padding):
        image, label = F.pad(image, padding, fill=0.0), F.pad(label, padding, fill=IGNORE_INDEX)
    return image.contiguous(), label[0].long()


def eval_transform(
    image: Tensor, label: Tensor, normalization: Normalization = IMAGENET
) -> tuple[Tensor, Tensor]:
    """Normalise only: uint8 [3, H, W] and uint8 [H, W] → float32 [3, H, W] and int64 [H, W]."""
    return normalize(image, normalization).contiguous(), label.long()


def _between(low: float, high: float, draw: float) -> float:
    return low + (high - low) * draw


def _place(label: Tensor, *, data: Data, seed: int, position: int, draws: _Draws) -> tuple[_Span, _Span]:
    """Rows and columns of the crop: of the first of a few draws whose window no class dominates."""
    scale, most = _between(*data.scale_range, draws.scale), data.max_class_share

    def spans(top: float, left: float) -> tuple[_Span, _Span]:
        rows = _span(label.shape[0], crop=data.crop_size[0], scale=scale, draw=top)
        return rows, _span(label.shape[1], crop=data.crop_size[1], scale=scale, draw=left)

    rows, columns = spans(draws.top, draws.left)
    for attempt in range(1, _MOST_DRAWS):
        if most is None or _largest_share(label[rows.source, columns.source]) <= most:
            break
        counters = len(_Draws._fields) + 2 * attempt + torch.arange(2)
        rows, columns = spans(*uniform(seed, _STREAM, position, counters).tolist())
    return rows, columns


def _largest_share(label: Tensor) -> float:
    """Share of the most frequent class among the labelled pixels; 1 where there are none."""
    counts = torch.bincount(label.flatten(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    labelled = int(counts.sum())
    return int(counts.max()) / labelled if labelled else 1.0


def _span(size: int, *, crop: int, scale: float, draw: float) -> _Span:
    """Place the window of ``crop / scale`` source pixels on an axis of ``size``."""
    window = max(1, round(crop / scale))
    if window <= size:
        return _Span(start=int(draw * (size - window + 1)), length=window, target=0, extent=crop)
    before = int(draw * (window - size + 1))
    extent = max(1, round(size * crop / window))
    target = min(round(before * crop / window), crop - extent)
    return _Span(start=0, length=size, target=target, extent=extent)


def _padding(rows: _Span, columns: _Span, crop: tuple[int, int]) -> list[int]:
    """Left, top, right, bottom."""
    right, bottom = crop[1] - columns.target - columns.extent, crop[0] - rows.target - rows.extent
    return [columns.target, rows.target, right, bottom]


def _jittered(image: Tensor, strength: float, draws: _Draws) -> Tensor:
    """Brightness, contrast, saturation, each by a factor in 1 ± strength: uint8 → float32 in [0, 255].

    Without strength the image stays as it is, uint8.

    torchvision's own contrast and saturation are not used: the first averages floats, the second adds with a
    factor, and both then round as the number of threads has it.
    """
    if strength == 0:
        return image
    chosen = (draws.brightness, draws.contrast, draws.saturation)
    brightness, contrast, saturation = (_between(1 - strength, 1 + strength, draw) for draw in chosen)
    image = F.adjust_brightness(image, brightness)
    mean = _mean_luminance(image)
    pixels = image.float().mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 255)
    red, green, blue = (channel * weight for channel, weight in zip(pixels, _LUMINANCE, strict=True))
    grey = red.add_(green).add_(blue).mul_(1 - saturation)
    return pixels.mul_(saturation).add_(grey).clamp_(0, 255)


def _mean_luminance(image: Tensor) -> float:
    """Mean luminance of a uint8 image, from exact integer sums."""
    sums = image.sum(dim=(1, 2), dtype=torch.int64).tolist()
    return sum(weight * total for weight, total in zip(_LUMINANCE, sums, strict=True)) / image[0].numel()


def denormalize(image: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """Undo ``normalize``, for pictures: float32 [3, h, w] → uint8 [3, h, w]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in normalization)
    return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def normalize(image: Tensor, normalization: Normalization) -> Tensor:
    """uint8 or float32 [3, h, w] in [0, 255] → float32 [3, h, w], normalised; a float image in place."""
    mean, std = (
        torch.tensor([255 * value for value in values], device=image.device)[:, None, None]
        for values in normalization
    )
    centred = image.sub_(mean) if image.is_floating_point() else image - mean
    return centred.div_(std)
