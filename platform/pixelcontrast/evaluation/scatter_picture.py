"""A picture of points in the plane, coloured by class: panels in rows, one legend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixelcontrast.evaluation.sheet import INK, MUTED, PAGE, beside, stacked, text
from pixelcontrast.typeface import font

_SIDE, _MARGIN = 440, 14
_FINER = 3
"""Points are drawn this many times larger and scaled down, which smooths their edges."""
_RADIUS = 3.0
_FRAME = (205, 205, 205)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A cloud of points."""

    title: str
    caption: str
    """Smaller, below the title: what the axes are."""
    points: NDArray[np.float64]
    """[n, 2]; the axes have one scale, so that distances are kept."""
    classes: NDArray[np.int64]
    """[n]: places in the legend."""


def scatter_picture(
    rows: Sequence[Sequence[Panel]], names: Sequence[str], colors: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """Draw panels, and below them a legend of the classes that have points.

    Args:
        rows: of panels, one or more each.
        names: of the K classes.
        colors: RGB of each class.
    """
    body = stacked([beside([_panel(panel, colors) for panel in row]) for row in rows])
    present = sorted({int(number) for row in rows for panel in row for number in panel.classes})
    entries = [(names[number], colors[number]) for number in present]
    return stacked([body, _legend(entries, body.width)])


def _panel(panel: Panel, colors: Sequence[tuple[int, int, int]]) -> Image.Image:
    head = stacked(
        [text([panel.title], _SIDE, size=14), text([panel.caption], _SIDE, size=12, color=MUTED)], gap=2
    )
    return stacked([head, _cloud(panel, colors)], gap=4)


def _cloud(panel: Panel, colors: Sequence[tuple[int, int, int]]) -> Image.Image:
    canvas = Image.new("RGB", (_SIDE * _FINER, _SIDE * _FINER), PAGE)
    draw = ImageDraw.Draw(canvas)
    places = _fitted(panel.points) * _FINER
    # In a random order, the same each time: no class lies on top of all others.
    for index in np.random.default_rng(0).permutation(len(places)):
        _dot(draw, places[index], colors[int(panel.classes[index])])
    cloud = canvas.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    ImageDraw.Draw(cloud).rectangle((0, 0, _SIDE - 1, _SIDE - 1), outline=_FRAME)
    return cloud


def _fitted(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in the panel, in pixels; y grows upwards in ``points`` and downwards here."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = max(float((high - low).max()), 1e-12)
    centred = (points - (low + high) / 2) / extent * np.array([1, -1])
    return _SIDE / 2 + centred * (_SIDE - 2 * _MARGIN)


def _dot(draw: ImageDraw.ImageDraw, place: NDArray[np.float64], color: tuple[int, int, int]) -> None:
    """A disc with a darker edge, which sets light colours off from the page."""
    radius = _RADIUS * _FINER
    box = (place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius)
    edge = (color[0] * 3 // 5, color[1] * 3 // 5, color[2] * 3 // 5)
    draw.ellipse(box, fill=color, outline=edge, width=_FINER - 1)


def _legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> Image.Image:
    """Discs and names, in equal columns."""
    line, face = 20, font(13, *(name for name, _ in entries))
    step = round(max(face.getlength(name) for name, _ in entries)) + 36
    columns = max(1, width // step)
    legend = Image.new("RGB", (max(width, step), -(-len(entries) // columns) * line), PAGE)
    for index, (name, color) in enumerate(entries):
        left, top = index % columns * step, index // columns * line
        disc = Image.new("RGB", (line * _FINER, line * _FINER), PAGE)
        _dot(ImageDraw.Draw(disc), np.array([line, line]) * _FINER / 2, color)
        legend.paste(disc.resize((line, line), Image.Resampling.LANCZOS), (left, top))
        ImageDraw.Draw(legend).text((left + line, top + 1), name, fill=INK, font=face)
    return legend
