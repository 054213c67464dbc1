"""Parallel coordinates, drawn with lines: plotly's own need WebGL, which not every browser has."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from pixelcontrast.reports.figures import BEST, QUIET, base
from pixelcontrast.words import setting

_AXIS_WIDTH, _TITLE_LETTERS = 112, 13
"""Pixels between two axes, at least, and the letters of a title's line that fit into them."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A searched setting, or the objective.

    Attributes:
        places: 0 … 1 of each trial, None where it has no value.
        ticks: (place, text).
    """

    title: str
    places: list[float | None]
    ticks: list[tuple[float, str]]


def axis_of(key: str, dimension: Mapping[str, Any], values: Sequence[Any]) -> Axis:
    """The axis of a searched setting, as long as its range; choices at equal distances."""
    if "values" in dimension:
        choices = list(dimension["values"])
        step = 1 / max(len(choices) - 1, 1)
        places = [choices.index(value) * step if value in choices else None for value in values]
        ticks = [(index * step, setting(value)) for index, value in enumerate(choices)]
        return Axis(title=key, places=[*places], ticks=ticks)
    return _range_axis(key, values, dimension["low"], dimension["high"], log=dimension["log"])


def objective_axis(title: str, values: Sequence[float | None], *, scale: float = 1.0) -> Axis:
    """From the smallest to the largest value."""
    known = [scale * value for value in values if value is not None]
    low, high = min(known), max(known)
    if low == high:
        low, high = low - 0.5, high + 0.5
    scaled = [None if value is None else scale * value for value in values]
    return _range_axis(title, scaled, low, high, log=False)


def _range_axis(title: str, values: Sequence[Any], low: float, high: float, *, log: bool) -> Axis:
    scale = math.log if log else float
    bottom, length = scale(low), scale(high) - scale(low)
    places = [None if value is None else (scale(value) - bottom) / length for value in values]
    ticks = []
    for place in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = bottom + place * length
        ticks.append((place, _short(math.exp(value) if log else value)))
    return Axis(title=title, places=places, ticks=ticks)


def _short(value: float) -> str:
    """Two significant digits, without an exponent where that can be read."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def width(axes: Sequence[Axis]) -> int:
    """Pixels below which the titles and ticks of ``parallel`` would touch."""
    return 24 * 2 + _AXIS_WIDTH * len(axes)


def parallel(axes: Sequence[Axis], names: Sequence[str], *, best: int | None) -> go.Figure:
    """A line per trial from axis to axis, stronger where the last axis' value is larger; the best on top."""
    figure = base(height=420)
    last = axes[-1].places
    order = sorted(range(len(names)), key=lambda index: (index == best, last[index] or 0.0))
    for index in order:
        color = BEST if index == best else _shade(last[index])
        figure.add_scatter(
            x=list(range(len(axes))),
            y=[_shifted(axis, index) for axis in axes],
            mode="lines",
            line={"color": color, "width": 3.5 if index == best else 1.8},
            hovertemplate=f"{names[index]}<extra></extra>",
        )
    for column, axis in enumerate(axes):
        _draw_axis(figure, column, axis)
    figure.update_layout(margin={"l": 24, "r": 24, "t": 76, "b": 16})
    figure.update_xaxes(range=[-0.5, len(axes) - 0.5], showticklabels=False, showgrid=False, title=None)
    figure.update_yaxes(range=[-0.05, 1.05], showticklabels=False, showgrid=False, title=None)
    return figure


def _shifted(axis: Axis, index: int) -> float | None:
    """Where trials share a choice, lines keep a little apart."""
    place = axis.places[index]
    shared = place is not None and axis.places.count(place) > 1
    return place + 0.008 * (index % 7 - 3) if place is not None and shared else place


def _shade(place: float | None) -> str:
    return QUIET if place is None else f"rgba(47,140,190,{0.2 + 0.8 * place:.2f})"


def _draw_axis(figure: go.Figure, column: int, axis: Axis) -> None:
    figure.add_shape(
        type="line", x0=column, x1=column, y0=-0.02, y1=1.02, layer="below", line={"color": QUIET, "width": 1}
    )
    figure.add_annotation(
        x=column,
        y=1.05,
        text=_title(axis),
        showarrow=False,
        yanchor="bottom",
        align="center",
        font={"size": 12},
    )
    for place, text in axis.ticks:
        figure.add_annotation(
            x=column,
            y=place,
            text=escape(text),
            showarrow=False,
            xanchor="left",
            xshift=5,
            font={"size": 11},
        )


def _title(axis: Axis) -> str:
    """``contrast.``, and below it the field in bold, broken at its underscores into lines that fit."""
    section, dot, field = axis.title.rpartition(".")
    lines: list[str] = []
    for word in re.split("(?<=_)", field):
        if lines and len(lines[-1] + word) <= _TITLE_LETTERS:
            lines[-1] += word
        else:
            lines.append(word)
    bold = [f"<b>{escape(line)}</b>" for line in lines]
    return "<br>".join([f"{escape(section)}.", *bold] if dot else bold)
