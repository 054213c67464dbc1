"""A network's classes for one picture of any size, in bounded memory."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from pixelcontrast.datasets.files import image_pixels
from pixelcontrast.datasets.transforms import Normalization, normalize
from pixelcontrast.models import SegmentationModel

MAX_LOGITS = 1 << 27
"""Logits held at once, 512 MiB in float32: 7 megapixels of 19 classes, 0.8 of 171."""
MAX_TILE = MAX_LOGITS // 19
"""Pixels that the network sees at once, however few its classes: its features need memory, too."""
_MARGIN = 128
"""Pixels of context around a tile, of which the network sees them and gives the neighbour's classes."""


class Prediction(NamedTuple):
    """What a network says of a picture."""

    classes: Tensor
    """uint8 [H, W], on the CPU."""
    confidence: Tensor
    """float32 [H, W]: the softmax probability of that class, 1/K … 1."""


class _Part(NamedTuple):
    """A tile's extent on one axis, and which part of it is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@torch.inference_mode()
def classify(model: SegmentationModel, image: Tensor, *, max_logits: int = MAX_LOGITS) -> Prediction:
    """The most probable class of every pixel.

    A picture whose logits exceed ``max_logits``, or whose pixels ``MAX_TILE``, is cut into tiles that overlap
    by twice 128 pixels; each gives the classes of its middle. What a decoder sees of the whole image (OCR's
    objects, DeepLabV3's pooling) is then what it sees of the tile.

    Args:
        model: in evaluation mode.
        image: uint8 [3, H, W].
    """
    num_rows, num_columns = image.shape[-2:]
    found = Prediction(
        torch.empty(num_rows, num_columns, dtype=torch.uint8), torch.empty(num_rows, num_columns)
    )
    device, normalization = next(model.parameters()).device, Normalization(model.mean, model.std)
    side = math.isqrt(min(max_logits // _num_classes(model), MAX_TILE))
    whole = num_rows * num_columns <= side * side
    for rows in _parts(num_rows, num_rows if whole else side):
        for columns in _parts(num_columns, num_columns if whole else side):
            tile = image[:, rows.start : rows.stop, columns.start : columns.stop].to(device)
            logits = model(normalize(tile, normalization)[None]).logits[0]
            kept = (
                slice(rows.keep_start - rows.start, rows.keep_stop - rows.start),
                slice(columns.keep_start - columns.start, columns.keep_stop - columns.start),
            )
            place = slice(rows.keep_start, rows.keep_stop), slice(columns.keep_start, columns.keep_stop)
            _decide(logits[:, *kept], Prediction(found.classes[place], found.confidence[place]))
    return found


def to_tensor(image: Image.Image | ArrayLike) -> Tensor:
    """A PIL image, or an array of uint8 [H, W, 3] or grey [H, W] → uint8 [3, H, W].

    Raises:
        ValueError: an array of another type or shape, or an image of another mode than 8-bit RGB, RGBA, L and
            P, or with transparent pixels.
    """
    if isinstance(image, Image.Image):
        return image_pixels(image, "image")
    pixels = np.asarray(image)
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or pixels.size == 0:
        raise ValueError(
            f"image: {pixels.dtype} {list(pixels.shape)}; allowed are a PIL image, and uint8 arrays "
            "[H, W, 3] (RGB) or [H, W] (grey) of one pixel or more"
        )
    colored = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(colored.copy()).permute(2, 0, 1)  # it may be read-only, which torch is not


def _num_classes(model: SegmentationModel) -> int:
    return model.decoder.classifier.out_channels


def _parts(length: int, side: int) -> Iterator[_Part]:
    """Cover an axis by tiles of ``side`` pixels; each keeps what is nearer to its own middle."""
    if length <= side:
        yield _Part(0, length, 0, length)
        return
    margin = min(_MARGIN, side // 4)
    starts = [*range(0, length - side, side - 2 * margin), length - side]
    for place, start in enumerate(starts):
        first, last = place == 0, place == len(starts) - 1
        keep_start = 0 if first else (start + starts[place - 1] + side) // 2
        keep_stop = length if last else (starts[place + 1] + start + side) // 2
        yield _Part(start, start + side, keep_start, keep_stop)


def _decide(logits: Tensor, into: Prediction) -> None:
    """Write the classes and confidences of logits [K, h, w]."""
    best, classes = logits.max(dim=0)
    into.classes.copy_(classes)
    into.confidence.copy_((best - logits.logsumexp(dim=0)).exp_())
