"""The figures of a report, as plotly figures of one look. Colours of text and grid: templates/page.css."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from pixelcontrast.reports.importance import Importance
from pixelcontrast.runs.run_folder import Row
from pixelcontrast.runs.search_record import MAXIMIZED
from pixelcontrast.words import OBJECTIVES

BEST, OTHER, QUIET = "#d9480f", "#3b7ea1", "#8d99a6"
STATE_COLORS = {"COMPLETE": OTHER, "PRUNED": QUIET, "FAIL": "#c92a2a", "RUNNING": "#c98a00"}
ARM_COLORS = ("#3b7ea1", "#d9480f", "#2b8a3e", "#9c36b5", "#c98a00", "#5c677d", "#c2255c", "#0b7285")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def base(*, height: int, x: str = "", y: str = "", legend: bool = False) -> go.Figure:
    """An empty figure with titled axes; its width is the page's."""
    axis: dict[str, Any] = {
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        "fixedrange": True,
    }
    title = {"standoff": 10, "font": {"size": 13}}
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 36 if legend else 12, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13},
        hoverlabel={"font": {"family": _FONT, "size": 13}},
        hovermode="closest",
        dragmode=False,
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        xaxis=axis | {"title": title | {"text": x}},
        yaxis=axis | {"title": title | {"text": y}},
    )
    return figure


def curves(series: Sequence["Curve"], *, height: int = 380) -> go.Figure:
    """mIoU over steps; the last in order lies on top. The legend has an entry per group."""
    figure = base(height=height, x="step", y="mIoU, %", legend=len({curve.group for curve in series}) > 1)
    seen: set[str] = set()
    for curve in series:
        figure.add_scatter(
            x=[step for step, _ in curve.points],
            y=[100 * value for _, value in curve.points],
            mode="lines+markers" if len(curve.points) < 40 else "lines",
            name=escape(curve.group),
            legendgroup=curve.group,
            showlegend=curve.group not in seen,
            line={"color": curve.color, "width": 3 if curve.strong else 1.5},
            marker={"size": 7 if curve.strong else 5},
            opacity=1 if curve.strong else 0.65,
            hovertemplate=f"<b>{escape(curve.name)}</b><br>step %{{x:,}}: %{{y:.1f}} %<extra></extra>",
        )
        seen.add(curve.group)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure


class Curve:
    """A line of ``curves``."""

    def __init__(
        self,
        name: str,
        points: Sequence[tuple[int, float]],
        *,
        group: str,
        color: str,
        strong: bool = False,
    ):
        self.name, self.points, self.group = name, points, group
        self.color, self.strong = color, strong


def losses(rows: Sequence[Row]) -> go.Figure:
    """Loss and its parts over the steps of one run."""
    figure = base(height=340, x="step", y="loss", legend=True)
    parts = {
        "loss": ("loss", BEST),
        "ce": ("cross-entropy", OTHER),
        "contrast": ("contrast", "#2b8a3e"),
        "auxiliary": ("auxiliary", "#9c36b5"),
    }
    for key, (name, color) in parts.items():
        found = [(row["step"], row[key]) for row in rows if key in row]
        if found:
            figure.add_scatter(
                x=[step for step, _ in found],
                y=[value for _, value in found],
                mode="lines",
                name=name,
                line={"color": color, "width": 2.5 if key == "loss" else 1.5},
                hovertemplate=f"{name}, step %{{x:,}}: %{{y:.3g}}<extra></extra>",
            )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure


def importance(found: Sequence[Importance]) -> go.Figure:
    """A dot and its interval per setting, the most important on top."""
    figure = base(height=70 + 40 * len(found), x="importance, %")
    ordered = list(reversed(found))
    figure.add_scatter(
        x=[100 * item.mean for item in ordered],
        y=[escape(item.key) for item in ordered],
        mode="markers",
        marker={"size": 12, "color": BEST},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (item.high - item.mean) for item in ordered],
            "arrayminus": [100 * (item.mean - item.low) for item in ordered],
            "color": OTHER,
            "thickness": 2,
            "width": 6,
        },
        customdata=[[100 * item.low, 100 * item.high] for item in ordered],
        hovertemplate="%{y}: %{x:.0f} %, from %{customdata[0]:.0f} to %{customdata[1]:.0f} %<extra></extra>",
    )
    figure.update_xaxes(range=[-4, 102])
    figure.update_yaxes(title=None)
    return figure


def class_bars(iou: Mapping[str, float | None]) -> go.Figure:
    """IoU per class, in the data set's order."""
    names = _known(iou)
    figure = base(height=70 + 24 * len(names), x="IoU, %")
    figure.add_bar(
        x=_percents(iou, names),
        y=[escape(name) for name in names],
        orientation="h",
        marker={"color": OTHER},
        texttemplate="%{x:.1f}",
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
    )
    figure.update_layout(bargap=0.35)
    figure.update_xaxes(range=[0, 109], tickvals=[0, 20, 40, 60, 80, 100])
    figure.update_yaxes(type="category", dtick=1)
    return figure


def class_dots(
    iou: Mapping[str, float | None], baseline: Mapping[str, float | None], *, names: tuple[str, str]
) -> go.Figure:
    """IoU per class of a trial and of the baseline, joined. ``names``: the trial's, the baseline's."""
    classes = _known(iou)
    labels = [escape(name) for name in classes]
    after, before = _percents(iou, classes), _percents(baseline, classes)
    figure = base(height=80 + 26 * len(classes), x="IoU, %", legend=True)
    figure.add_scatter(
        x=[value for pair in zip(before, after, strict=True) for value in (*pair, None)],
        y=[place for label in labels for place in (label, label, None)],
        mode="lines",
        line={"color": QUIET, "width": 3},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
    )
    ring = {"size": 13, "color": OTHER, "symbol": "circle-open", "line": {"width": 2.5}}
    for name, values, marker in ((names[1], before, ring), (names[0], after, {"size": 9, "color": BEST})):
        figure.add_scatter(
            x=values,
            y=labels,
            mode="markers",
            name=escape(name),
            marker=marker,
            hovertemplate=f"%{{y}}, {escape(name)}: %{{x:.1f}} %<extra></extra>",
        )
    figure.update_xaxes(range=[-4, 102])
    figure.update_yaxes(type="category", dtick=1)
    return figure


def _known(iou: Mapping[str, float | None]) -> list[str]:
    """The classes that have a value, from the bottom of a figure to its top."""
    return [name for name in reversed(list(iou)) if iou[name] is not None]


def _percents(iou: Mapping[str, float | None], names: list[str]) -> list[float | None]:
    values = [iou.get(name) for name in names]
    return [None if value is None else 100 * value for value in values]


def confusion_width(classes: Sequence[str]) -> int:
    """Pixels below which the numbers in the cells of ``confusion`` would touch."""
    return 7 * max(map(len, classes)) + 30 + 22 * len(classes)


def confusion(classes: Sequence[str], pixels: Sequence[Sequence[int]]) -> go.Figure:
    """Row-normalised: of the pixels of a true class, the share that each class was predicted for.

    Shares of half a percent and more are written into their cells.
    """
    names = [escape(name) for name in classes]
    shares = [[100 * count / sum(row) if sum(row) else None for count in row] for row in pixels]
    figure = base(height=90 + 28 * len(names), x="predicted class", y="true class")
    figure.add_heatmap(
        x=names,
        y=names,
        z=shares,
        zmin=0,
        zmax=100,
        xgap=1,
        ygap=1,
        colorscale=[(0, "rgba(47,140,190,0.06)"), (1, "rgba(47,140,190,0.75)")],
        showscale=False,
        text=[["" if share is None or share < 0.5 else f"{share:.0f}" for share in row] for row in shares],
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=[[f"{count:,}" for count in row] for row in pixels],
        hovertemplate="%{y}, predicted %{x}: %{z:.1f} % (%{customdata} pixels)<extra></extra>",
        hoverongaps=False,
    )
    figure.update_yaxes(type="category", autorange="reversed", dtick=1, showgrid=False)
    figure.update_xaxes(type="category", dtick=1, tickangle=-60, showgrid=False)
    return figure


class Point:
    """A trial of ``pareto``."""

    def __init__(self, name: str, values: Sequence[float], *, on_front: bool):
        self.name, self.values, self.on_front = name, values, on_front


def pareto(trials: Sequence[Point], objectives: Sequence[str]) -> go.Figure:
    """Complete trials by two objectives, those that no other dominates joined by steps."""
    scales = [100.0 if name == "miou" else 1.0 for name in objectives]
    titles = ["mIoU, %" if name == "miou" else OBJECTIVES[name] for name in objectives]
    figure = base(height=420, x=titles[1], y=titles[0], legend=True)
    steps = "hv" if objectives[0] in MAXIMIZED else "vh"
    groups = (("dominated", OTHER, False), ("Pareto front", BEST, True))
    for group, color, on_front in groups:
        chosen = sorted(
            (trial for trial in trials if trial.on_front == on_front), key=lambda trial: trial.values[1]
        )
        hover = f"<b>%{{text}}</b><br>{titles[1]}: %{{x:.3g}}<br>{titles[0]}: %{{y:.3g}}<extra></extra>"
        figure.add_scatter(
            x=[scales[1] * trial.values[1] for trial in chosen],
            y=[scales[0] * trial.values[0] for trial in chosen],
            mode="lines+markers" if on_front else "markers",
            line={"color": color, "width": 1.5, "shape": steps, "dash": "dot"},
            marker={"size": 12 if on_front else 9, "color": color, "opacity": 1 if on_front else 0.7},
            name=group,
            text=[escape(trial.name) for trial in chosen],
            hovertemplate=hover,
        )
    return figure


def arms(scores: Mapping[str, Mapping[int, float]], colors: Mapping[str, str]) -> go.Figure:
    """A row per arm: a dot for each seed, a bar at the mean."""
    figure = base(height=70 + 56 * len(scores), x="mIoU after the last step, %")
    for name in reversed(list(scores)):
        values = [100 * score for score in scores[name].values()]
        if not values:
            continue
        label = escape(name)
        figure.add_scatter(
            x=values,
            y=[label] * len(values),
            mode="markers",
            marker={"size": 11, "color": colors[name], "opacity": 0.65},
            customdata=[f"seed {seed}" for seed in scores[name]],
            hovertemplate=f"{label}, %{{customdata}}: %{{x:.1f}} %<extra></extra>",
        )
        figure.add_scatter(
            x=[sum(values) / len(values)],
            y=[label],
            mode="markers",
            marker={"size": 30, "symbol": "line-ns", "line": {"width": 3, "color": colors[name]}},
            hovertemplate=f"{label}, mean: %{{x:.1f}} %<extra></extra>",
        )
    figure.update_yaxes(type="category", title=None)
    return figure
