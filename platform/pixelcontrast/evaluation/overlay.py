"""Pictures of predictions: image, truth and prediction side by side, and sheets of such rows."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageOps

from pixelcontrast.typeface import font

Picture = NDArray[np.uint8]
"""[H, W, 3] RGB."""

_COLOR_SHARE = 0.68
"""Share of the class colour in a blended pixel; the rest is the greyed image, which keeps shapes readable."""
_BAND = 1 << 16
"""Pixels that are blended at once, in whole rows: each needs some 80 bytes."""
_GAP = 4
_MAX_WIDTH = 1600
"""Pixels to which a sheet's wider rows are scaled down."""
_SAMPLE_PANELS = 4
_PAGE = (255, 255, 255)
_INK = (60, 60, 60)
_TEXT = 13
"""Height of letters in pixels."""


def overlay(image: ArrayLike, truth: ArrayLike, prediction: ArrayLike, colors: ArrayLike) -> Picture:
    """A row: the image, then the true and the predicted classes in their colours over the greyed image.

    Pixels without a class, whose id is not in 0 … K−1, such as the ignored 255, are grey with dark stripes.

    Args:
        image: uint8 [3, H, W], RGB.
        truth: integers [H, W].
        prediction: integers [H, W].
        colors: uint8 [K, 3], RGB.

    Returns:
        uint8 [H, 3·W + 2 gaps, 3].

    Raises:
        ValueError: sizes that do not fit together.
    """
    picture = np.asarray(image, np.uint8).transpose(1, 2, 0)
    palette = np.asarray(colors, np.uint8)
    gap = np.full((picture.shape[0], _GAP, 3), _PAGE, np.uint8)
    panels = [blend(picture, np.asarray(classes), palette) for classes in (truth, prediction)]
    return np.concatenate([picture, gap, panels[0], gap, panels[1]], axis=1)


def blend(picture: Picture, classes: NDArray, palette: Picture) -> Picture:
    """Lay the classes' colours over the greyed image; without a class, dark stripes.

    Args:
        picture: [H, W, 3].
        classes: integers [H, W]; what is not in 0 … K−1 has no class.
        palette: [K, 3].

    Raises:
        ValueError: sizes that differ.
    """
    if classes.shape != picture.shape[:2]:
        raise ValueError(f"classes {list(classes.shape)} do not fit an image {list(picture.shape[:2])}")
    blended = np.empty(picture.shape, np.uint8)
    num_rows = max(1, _BAND // max(1, picture.shape[1]))
    for top in range(0, len(picture), num_rows):
        band = slice(top, top + num_rows)
        blended[band] = _blend_band(picture[band], classes[band], palette, top=top)
    return blended


def _blend_band(picture: Picture, classes: NDArray, palette: Picture, *, top: int) -> NDArray[np.float64]:
    """Rows of ``blend`` from the picture's row ``top`` on, rounded."""
    grey: NDArray[np.float64] = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    known = (classes >= 0) & (classes < len(palette))
    colored = palette[np.where(known, classes, 0)]
    blended = _COLOR_SHARE * colored + (1 - _COLOR_SHARE) * grey[..., None]
    rows, columns = np.nonzero(~known)
    blended[rows, columns] = _striped(grey[rows, columns], top + rows + columns)[:, None]
    return blended.round()


def _striped(grey: NDArray[np.float64], diagonal: NDArray[np.intp]) -> NDArray[np.float64]:
    """Grey values [N] with stripes by the sum of row and column: no palette's colour looks like them."""
    return np.where(diagonal // 3 % 3 == 0, 0.25 * grey, 0.45 * grey + 110)


def contact_sheet(
    rows: Sequence[Picture],
    *,
    names: Sequence[str] = (),
    colors: ArrayLike = (),
    title: str = "",
    headings: Sequence[str] = ("image", "truth", "prediction"),
    max_width: int = _MAX_WIDTH,
) -> bytes:
    """Rows of ``overlay`` below one another, with headings and a legend.

    Args:
        rows: uint8 [H, W, 3]; at least one; sizes may differ.
        names: of the classes, for a legend; none without them.
        colors: uint8 [K, 3] of these classes.
        title: a line of text above.
        headings: of the panels in a row, which are of equal width.
        max_width: wider rows are scaled down to it, in pixels.

    Returns:
        A PNG file's bytes.
    """
    pictures = [Image.fromarray(shrunk(row, max_width)) for row in rows]
    body = _stack(pictures)
    heading = _heading(pictures[0].width, title, headings)
    entries = (*names, "ignored")
    legend = [_legend(entries, np.asarray(colors, np.uint8), body.width)] if names else []
    parts = [heading, body, *legend]
    margin = 2 * _GAP
    size = max(part.width for part in parts), sum(part.height for part in parts)
    sheet = Image.new("RGB", (size[0] + 2 * margin, size[1] + 2 * margin), _PAGE)
    top = margin
    for part in parts:
        sheet.paste(part, (margin, top))
        top += part.height
    file = BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def shrunk(row: Picture, max_width: int = _MAX_WIDTH) -> Picture:
    """A row as ``contact_sheet`` shows it, scaled down if it is wider: a large one need not be kept."""
    height, width, _ = row.shape
    if width <= max_width:
        return row
    size = max_width, round(height * max_width / width)
    return np.asarray(Image.fromarray(row).resize(size, Image.Resampling.LANCZOS))


def samples_sheet(
    samples: Sequence[tuple[Picture, NDArray]], *, names: Sequence[str], colors: ArrayLike
) -> bytes:
    """Crops of one size, two in a row, each beside its classes laid over it; with a legend.

    Args:
        samples: image, uint8 [H, W, 3], and classes, integers [H, W].
        names: of the K classes.
        colors: uint8 [K, 3], RGB.

    Returns:
        A PNG file's bytes.
    """
    palette = np.asarray(colors, np.uint8)
    panels = [panel for image, label in samples for panel in (image, blend(image, label, palette))]
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % _SAMPLE_PANELS)
    gap = np.full((panels[0].shape[0], _GAP, 3), _PAGE, np.uint8)
    rows = []
    for first in range(0, len(panels), _SAMPLE_PANELS):
        row = [part for panel in panels[first : first + _SAMPLE_PANELS] for part in (gap, panel)]
        rows.append(np.concatenate(row[1:], axis=1))
    return contact_sheet(rows, names=names, colors=palette, headings=("crop", "label") * 2)


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    height = sum(row.height for row in rows) + _GAP * (len(rows) - 1)
    stack = Image.new("RGB", (max(row.width for row in rows), height), _PAGE)
    top = 0
    for row in rows:
        stack.paste(row, (0, top))
        top += row.height + _GAP
    return stack


def _heading(width: int, title: str, titles: Sequence[str]) -> Image.Image:
    heading = Image.new("RGB", (width, 42 if title else 20), _PAGE)
    draw = ImageDraw.Draw(heading)
    if title:
        draw.text((0, 0), title, fill=_INK, font=font(15, title))
    for column, text in enumerate(titles):
        left = column * (width + _GAP) // len(titles)
        draw.text((left, heading.height - 19), text, fill=_INK, font=font(_TEXT, text))
    return heading


def legend(names: Sequence[str], colors: ArrayLike, *, width: int = 720) -> bytes:
    """A PNG of the classes' colours, as overlays show them, with their numbers and names.

    Args:
        names: of the K classes.
        colors: uint8 [K, 3], RGB.
        width: in pixels.
    """
    entries = [f"{number}  {name}" for number, name in enumerate(names)]
    body = _legend(entries, np.asarray(colors, np.uint8), width)
    margin, file = 2 * _GAP, BytesIO()
    ImageOps.expand(body, margin, _PAGE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _legend(entries: Sequence[str], colors: Picture, width: int) -> Image.Image:
    """Swatches as the panels show a class over middle grey, in equal columns; striped beyond the colours."""
    swatch, line, face = 14, 20, font(_TEXT, *entries)
    step = round(max(face.getlength(entry) for entry in entries)) + swatch + 20
    columns = max(1, width // step)
    legend = Image.new("RGB", (max(width, step), -(-len(entries) // columns) * line + 2 * _GAP), _PAGE)
    draw = ImageDraw.Draw(legend)
    grey = np.full((swatch, swatch, 3), 128, np.uint8)
    for index, entry in enumerate(entries):
        left, top = index % columns * step, index // columns * line + 2 * _GAP
        panel = blend(grey, np.full((swatch, swatch), index), colors)
        legend.paste(Image.fromarray(panel), (left, top))
        draw.text((left + swatch + 6, top - 1), entry, fill=_INK, font=face)
    return legend
