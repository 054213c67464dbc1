"""A picture of pairs of image patches, such as pixels that a network takes for each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixelcontrast.evaluation.sheet import MUTED, beside, stacked, text

_SHOWN = 144
"""Side of a patch on the page, in pixels."""
_BORDER = 5
_PAIRS_IN_A_ROW = 3


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The surroundings of a pixel, which is in the middle."""

    image: NDArray[np.uint8]
    """[s, s, 3] RGB."""
    title: str
    color: tuple[int, int, int]
    """The frame's: that of the pixel's class."""


def cut_patch(image: NDArray[np.uint8], row: int, column: int, *, side: int) -> NDArray[np.uint8]:
    """uint8 [side, side, 3] around a pixel of [H, W, 3]; black beyond the image's edges."""
    half = side // 2
    padded = np.pad(image, ((half, half), (half, half), (0, 0)))
    return padded[row : row + side, column : column + side]


def pairs_picture(pairs: Sequence[tuple[Patch, Patch, str]]) -> Image.Image:
    """Draw pairs, three in a row, each with a caption below.

    Args:
        pairs: two patches and their caption; at least one pair.
    """
    drawn = [_pair(*pair) for pair in pairs]
    rows = [drawn[first : first + _PAIRS_IN_A_ROW] for first in range(0, len(drawn), _PAIRS_IN_A_ROW)]
    return stacked([beside(row) for row in rows])


def _pair(left: Patch, right: Patch, caption: str) -> Image.Image:
    patches = beside([_patch(left), _patch(right)])
    return stacked([patches, text([caption], patches.width, size=12, color=MUTED)], gap=3)


def _patch(patch: Patch) -> Image.Image:
    """The patch, scaled up, framed in its class's colour, its pixel in a ring."""
    shown = Image.fromarray(patch.image).resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC)
    draw, middle = ImageDraw.Draw(shown), _SHOWN / 2
    for radius, color in ((9, (0, 0, 0)), (8, (255, 255, 255)), (7, (0, 0, 0))):
        draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), outline=color)
    framed = Image.new("RGB", (_SHOWN + 2 * _BORDER, _SHOWN + 2 * _BORDER), patch.color)
    framed.paste(shown, (_BORDER, _BORDER))
    return stacked([text([patch.title], framed.width, size=13), framed], gap=2)
