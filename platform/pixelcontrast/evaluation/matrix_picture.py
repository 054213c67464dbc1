"""Pictures of matrices that have a row and a column for every class, with numbers, labels and a legend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixelcontrast.typeface import Font, font

Color = tuple[int, int, int]
_PAGE, _INK, _LINE, _EMPTY = (255, 255, 255), (50, 50, 50), (225, 225, 225), (236, 236, 236)
_MARGIN = 16
_PAD = 6
_BAR = 260, 14
"""Width and height of the legend's bar, in pixels."""
_SMALLEST_CELL_WITH_NUMBER = 24


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a value is coloured and written."""

    colors: NDArray[np.float64]
    """[n, 3], evenly spaced over the range; nan has a grey of its own."""
    low: float
    high: float
    write: Callable[[float], str]
    """A value's text in its cell; empty for none."""
    ticks: Sequence[tuple[float, str]]
    """Values that the legend's bar names, with their texts."""
    meaning: str
    """What a value is, for the legend."""
    empty: str
    """What nan is, for the legend."""

    def color(self, value: float) -> Color:
        if np.isnan(value):
            return _EMPTY
        places = np.linspace(self.low, self.high, len(self.colors))
        red, green, blue = (round(float(np.interp(value, places, channel))) for channel in self.colors.T)
        return red, green, blue


def matrix_picture(
    values: NDArray[np.float64],
    names: Sequence[str],
    *,
    scale: Scale,
    title: str = "",
    axes: tuple[str, str] = ("", ""),
) -> Image.Image:
    """Draw a matrix; values stand in their cells where they fit: with up to 41 classes.

    Args:
        values: [K, K]; nan where there is none.
        names: of the K ≥ 1 classes.
        scale: the colours and texts.
        title: a line of text above.
        axes: what a row and a column are.
    """
    cell = _cell_size(len(names))
    size = min(13, cell - 2)
    face = font(size, *names)
    labels = [_label(name, size, face) for name in names]
    body = _body(values, cell, scale)
    page, left, top = _page(labels, body, title, axes)
    page.paste(body, (left, top))
    _write_labels(page, labels, cell, left, top)
    _draw_legend(page, left, top + body.height + _MARGIN, scale)
    return page


def _cell_size(num_classes: int) -> int:
    """In pixels: a few classes fill a screen's height, many stay readable."""
    return max(12, min(48, 1000 // num_classes))


def _body(values: NDArray[np.float64], cell: int, scale: Scale) -> Image.Image:
    size = len(values) * cell + 1
    body = Image.new("RGB", (size, size), _LINE)
    draw = ImageDraw.Draw(body)
    face = font(min(13, cell // 2))
    for (row, column), value in np.ndenumerate(values):
        left, top = column * cell, row * cell
        color = scale.color(float(value))
        draw.rectangle((left + 1, top + 1, left + cell - 1, top + cell - 1), fill=color)
        if cell >= _SMALLEST_CELL_WITH_NUMBER and not np.isnan(value):
            center = left + cell / 2 + 0.5, top + cell / 2 + 0.5
            draw.text(center, scale.write(float(value)), fill=_ink_on(color), font=face, anchor="mm")
    draw.rectangle((0, 0, size - 1, size - 1), outline=_INK)
    return body


def _ink_on(color: Color) -> Color:
    """White on dark cells, dark on light ones."""
    luminance = sum(share * channel for share, channel in zip((0.299, 0.587, 0.114), color, strict=True))
    return _INK if luminance > 125 else _PAGE


def _page(
    labels: Sequence[Image.Image], body: Image.Image, title: str, axes: tuple[str, str]
) -> tuple[Image.Image, int, int]:
    """A white page with its text around the matrix, and the matrix's left upper corner on it."""
    longest = max(label.width for label in labels)
    line = 22
    heading = line if title else 0
    left = _MARGIN + line + longest + _PAD
    top = _MARGIN + heading + line + longest + _PAD
    face = font(15, title)
    width = max(left + max(body.width, 2 * _BAR[0]), _MARGIN + round(face.getlength(title))) + _MARGIN
    page = Image.new("RGB", (width, top + body.height + 4 * _MARGIN), _PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=face)
    draw.text((left, _MARGIN + heading), axes[1], fill=_INK, font=font(13))
    if axes[0]:
        _stamp(page, _label(axes[0], 13, font(13)).rotate(90, expand=True), (_MARGIN, top))
    return page, left, top


def _write_labels(page: Image.Image, labels: Sequence[Image.Image], cell: int, left: int, top: int) -> None:
    for index, label in enumerate(labels):
        middle = index * cell + (cell - label.height) // 2 + 1
        _stamp(page, label, (left - _PAD - label.width, top + middle))
        _stamp(page, label.rotate(90, expand=True), (left + middle, top - _PAD - label.width))


def _draw_legend(page: Image.Image, left: int, top: int, scale: Scale) -> None:
    draw = ImageDraw.Draw(page)
    width, height = _BAR
    extent = scale.high - scale.low
    for offset in range(width):
        color = scale.color(scale.low + extent * offset / (width - 1))
        draw.line((left + offset, top, left + offset, top + height), fill=color)
    draw.rectangle((left - 1, top - 1, left + width, top + height + 1), outline=_INK)
    for value, text in scale.ticks:
        place = left + (value - scale.low) / extent * width, top + height + 4
        draw.text(place, text, fill=_INK, font=font(11), anchor="mt")
    text = left + width + 28
    draw.text((text, top - 1), scale.meaning, fill=_INK, font=font(12))
    draw.rectangle((text, top + 21, text + 10, top + 31), fill=_EMPTY, outline=_LINE)
    draw.text((text + 16, top + 18), scale.empty, fill=_INK, font=font(12))


def _label(text: str, size: int, face: Font) -> Image.Image:
    """White on black, to stamp: text cannot be drawn upwards."""
    height = size + 2
    label = Image.new("L", (round(face.getlength(text)) + 2, height))
    ImageDraw.Draw(label).text((1, height / 2), text, fill=255, font=face, anchor="lm")
    return label


def _stamp(page: Image.Image, label: Image.Image, place: tuple[int, int]) -> None:
    page.paste(_INK, place, label)
