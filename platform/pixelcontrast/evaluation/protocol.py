"""How a network sees an image in evaluation: whole or in windows, at several scales, mirrored."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Normalised images [B, 3, H, W] → logits [B, K, H, W], a new tensor, for any H and W."""
Average = Literal["logits", "probabilities"]

_BAND = 64
"""Rows whose softmax is taken at once, so that it needs no second map of all classes."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which views of an image the network gets, and how they become one prediction.

    A view is the image at a scale, mirrored or not. With a window a view is cut into windows, whose *logits*
    are averaged where they overlap, as mmsegmentation and the method's reference do. ``average`` says what of
    the views is averaged; it decides which class wins, and tools differ:

    - ``probabilities``: the mean of each view's softmax (mmsegmentation).
    - ``logits``: the mean of the logits (the method's reference, whose sum has the same argmax).

    HRNet's official code averages exp(logits), a third way, which is not here.

    Raises:
        ValueError: a size, stride or scale that cannot be used.
    """

    window: tuple[int, int] | None = None
    """Height and width in pixels of the sliding window; None: the whole view."""
    stride: tuple[int, int] | None = None
    """Rows and columns between two windows; None: two thirds of the window. The last window ends with the
    image, and a window larger than the image is as large as the image."""
    scales: tuple[float, ...] = (1.0,)
    """Factors by which the image is resized, bilinear and antialiased as in training; its logits are resized
    back bilinearly."""
    flip: bool = False
    """Each scale also mirrored left to right."""
    average: Average = "probabilities"

    def __post_init__(self) -> None:
        for name, size in (("window", self.window), ("stride", self.stride)):
            if size is not None and min(size) < 1:
                raise ValueError(f"{name} {size[0]}×{size[1]}: allowed are 1 pixel or more")
        if self.window is None and self.stride is not None:
            raise ValueError("stride: there is no window that it could move; give a window, too")
        if self.window is not None and any(map(int.__gt__, self.strides, self.window)):
            raise ValueError(
                f"stride {self.strides[0]}×{self.strides[1]} leaves gaps between windows of {self.window[0]}×"
                f"{self.window[1]}; allowed is a stride up to the window's size"
            )
        if not self.scales or not all(scale > 0 and math.isfinite(scale) for scale in self.scales):
            raise ValueError(f"scales {self.scales}: allowed are one or more numbers above 0")

    @property
    def strides(self) -> tuple[int, int]:
        """The window's strides, with the default filled in."""
        assert self.window is not None
        return self.stride or (round(self.window[0] * 2 / 3), round(self.window[1] * 2 / 3))

    def __str__(self) -> str:
        """The protocol in words: all that decides the prediction."""
        if self.window is None:
            text = "whole image"
        else:
            window, stride = ("×".join(map(str, size)) for size in (self.window, self.strides))
            text = f"windows of {window}, stride {stride}, logits averaged where they overlap"
        if self.scales == (1.0,) and not self.flip:
            return text
        views = f"scales {', '.join(f'{scale:g}' for scale in self.scales)}{' × flip' if self.flip else ''}"
        return f"{text}; mean of {self.average} over {views}"


def scores(network: Network, images: Tensor, protocol: Protocol) -> Tensor:
    """The scores whose argmax is the prediction: what ``protocol.average`` names, or a single view's logits.

    Beside what the network needs, at most three maps [B, K, H, W] and one of a view at its own scale are
    held, however many views there are.

    Args:
        network: the network, whose output is overwritten.
        images: float32 [B, 3, H, W], normalised.
        protocol: the views.

    Returns:
        [B, K, H, W], on the images' device.
    """
    views = _views(network, images, protocol)
    total = next(views)
    count = len(protocol.scales) * (2 if protocol.flip else 1)
    if count == 1:
        return total
    _to_averaged(total, protocol.average)
    for view in views:
        total += _to_averaged(view, protocol.average)
        del view  # else it would be held while the next one is made
    return total.div_(count)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin on an axis; the last one ends with it, as in mmsegmentation.

    Args:
        length: of the axis, in pixels; a longer window begins at 0.
    """
    return [
        min(start, max(length - window, 0)) for start in range(0, max(length - window, 0) + stride, stride)
    ]


def _views(network: Network, images: Tensor, protocol: Protocol) -> Iterator[Tensor]:
    """Each view's logits at the images' size."""
    size = images.shape[-2:]
    for scale in protocol.scales:
        scaled = _resize(images, [max(1, round(side * scale)) for side in size], antialias=True)
        yield _resize(_windowed(network, scaled, protocol), size)
        if protocol.flip:
            yield _resize(_windowed(network, scaled.flip(-1), protocol), size).flip(-1)


def _resize(maps: Tensor, size: Sequence[int], *, antialias: bool = False) -> Tensor:
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias)


def _windowed(network: Network, images: Tensor, protocol: Protocol) -> Tensor:
    """Logits [B, K, h, w] of images [B, 3, h, w], from windows if there are any."""
    height, width = images.shape[-2:]
    if protocol.window is None or (height <= protocol.window[0] and width <= protocol.window[1]):
        return network(images)
    (window_rows, window_columns), (row_stride, column_stride) = protocol.window, protocol.strides
    total, count = None, images.new_zeros(height, width)
    for top in window_starts(height, window_rows, row_stride):
        for left in window_starts(width, window_columns, column_stride):
            place = (..., slice(top, top + window_rows), slice(left, left + window_columns))
            logits = network(images[place])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[place] += logits
            count[place] += 1
    assert total is not None
    return total.div_(count)


def _to_averaged(logits: Tensor, average: Average) -> Tensor:
    """Logits [B, K, H, W] as they are averaged, in place."""
    if average == "probabilities":
        for band in logits.split(_BAND, dim=2):
            band.copy_(band.softmax(dim=1))
    return logits
