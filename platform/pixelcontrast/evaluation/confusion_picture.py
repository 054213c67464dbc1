"""A picture of a confusion matrix: which classes the pixels of each class are taken for."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

_SCALE = np.array(
    [
        (255, 255, 255),
        (222, 235, 247),
        (198, 219, 239),
        (158, 202, 225),
        (107, 174, 214),
        (66, 146, 198),
        (33, 113, 181),
        (8, 81, 156),
        (8, 48, 107),
    ],
    np.float64,
)
"""ColorBrewer's Blues from white on: evenly darker, also in print and for the colour-blind."""
_PAGE, _INK, _LINE, _EMPTY = (255, 255, 255), (50, 50, 50), (225, 225, 225), (236, 236, 236)
_MARGIN, _PAD = 16, 6
_BAR = 260, 14
"""Width and height of the legend's bar, in pixels."""
_SMALLEST_CELL_WITH_NUMBER = 24


def confusion_picture(pixels: ArrayLike, names: Sequence[str], *, title: str = "") -> bytes:
    """Draw each class's pixels as shares of its row, from white (0 %) to dark blue (100 %).

    Shares stand in the cells in percent, from 1 % on, where they fit: with up to 41 classes. The row of a
    class that has no pixels is grey.

    Args:
        pixels: counts [K, K], rows the truth, columns the prediction.
        names: of the K classes.
        title: a line of text above.

    Returns:
        A PNG file's bytes.

    Raises:
        ValueError: the counts are not K × K for K ≥ 1 names.
    """
    counts = np.asarray(pixels, np.float64)
    if not names or counts.shape != (len(names), len(names)):
        raise ValueError(f"pixels {list(counts.shape)} are not one row and column for {len(names)} names")
    cell = _cell_size(len(names))
    labels = [_label(name, min(13, cell - 2)) for name in names]
    body = _body(_shares(counts), cell)
    page, left, top = _page(labels, body, title)
    page.paste(body, (left, top))
    _write_labels(page, labels, cell, left, top)
    _draw_legend(page, left, top + body.height + _MARGIN)
    file = BytesIO()
    page.save(file, "PNG", optimize=True)
    return file.getvalue()


def _cell_size(num_classes: int) -> int:
    """In pixels: a few classes fill a screen's height, many stay readable."""
    return max(12, min(48, 1000 // num_classes))


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of each row; nan in the rows of classes without pixels."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def _color(share: float) -> tuple[int, int, int]:
    if np.isnan(share):
        return _EMPTY
    places = np.linspace(0, 1, len(_SCALE))
    red, green, blue = (round(float(np.interp(share, places, channel))) for channel in _SCALE.T)
    return red, green, blue


def _body(shares: NDArray[np.float64], cell: int) -> Image.Image:
    size = len(shares) * cell + 1
    body = Image.new("RGB", (size, size), _LINE)
    draw = ImageDraw.Draw(body)
    font = _font(min(13, cell // 2))
    for (row, column), share in np.ndenumerate(shares):
        left, top = column * cell, row * cell
        draw.rectangle((left + 1, top + 1, left + cell - 1, top + cell - 1), fill=_color(share))
        if cell >= _SMALLEST_CELL_WITH_NUMBER and share >= 0.01:
            ink = _PAGE if share > 0.62 else _INK
            center = left + cell / 2 + 0.5, top + cell / 2 + 0.5
            draw.text(center, f"{100 * share:.0f}", fill=ink, font=font, anchor="mm")
    draw.rectangle((0, 0, size - 1, size - 1), outline=_INK)
    return body


def _page(labels: Sequence[Image.Image], body: Image.Image, title: str) -> tuple[Image.Image, int, int]:
    """A white page with its text around the matrix, and the matrix's left upper corner on it."""
    longest = max(label.width for label in labels)
    line = 22
    heading = line if title else 0
    left = _MARGIN + line + longest + _PAD
    top = _MARGIN + heading + line + longest + _PAD
    width = left + max(body.width, 2 * _BAR[0]) + _MARGIN
    page = Image.new("RGB", (width, top + body.height + 4 * _MARGIN), _PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(15))
    draw.text((left, _MARGIN + heading), "predicted class", fill=_INK, font=_font(13))
    axis = _label("true class", 13).rotate(90, expand=True)
    _stamp(page, axis, (_MARGIN, top))
    return page, left, top


def _write_labels(page: Image.Image, labels: Sequence[Image.Image], cell: int, left: int, top: int) -> None:
    for index, label in enumerate(labels):
        middle = index * cell + (cell - label.height) // 2 + 1
        _stamp(page, label, (left - _PAD - label.width, top + middle))
        _stamp(page, label.rotate(90, expand=True), (left + middle, top - _PAD - label.width))


def _draw_legend(page: Image.Image, left: int, top: int) -> None:
    draw = ImageDraw.Draw(page)
    width, height = _BAR
    for offset in range(width):
        draw.line((left + offset, top, left + offset, top + height), fill=_color(offset / (width - 1)))
    draw.rectangle((left - 1, top - 1, left + width, top + height + 1), outline=_INK)
    for share in (0, 0.5, 1):
        draw.text(
            (left + share * width, top + height + 4), f"{share:.0%}", fill=_INK, font=_font(11), anchor="mt"
        )
    text = left + width + 28
    draw.text((text, top - 1), "of a true class's pixels", fill=_INK, font=_font(12))
    draw.rectangle((text, top + 21, text + 10, top + 31), fill=_EMPTY, outline=_LINE)
    draw.text((text + 16, top + 18), "no pixels of this class", fill=_INK, font=_font(12))


def _label(text: str, size: int) -> Image.Image:
    """White on black, to stamp: text cannot be drawn upwards."""
    font = _font(size)
    height = size + 2
    label = Image.new("L", (round(font.getlength(text)) + 2, height))
    ImageDraw.Draw(label).text((1, height / 2), text, fill=255, font=font, anchor="lm")
    return label


def _stamp(page: Image.Image, label: Image.Image, place: tuple[int, int]) -> None:
    page.paste(_INK, place, label)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
