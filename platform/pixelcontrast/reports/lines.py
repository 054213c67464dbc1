"""Small plots of one figure of a run over its steps."""

from collections.abc import Sequence

import plotly.graph_objects as go

from pixelcontrast.reports import figures
from pixelcontrast.runs.run_folder import Row

HEIGHT = 210
"""Height of a small plot, in pixels."""


def line(
    rows: Sequence[Row], key: str, *, level: float | None = None, tozero: bool = False
) -> go.Figure | None:
    """One figure of the rows over the steps, with a line at ``level``; None where no row has it."""
    if not any(known(row, key) for row in rows):
        return None
    plot = figures.base(height=HEIGHT, x="step")
    add_line(plot, rows, key, name=key.replace("_", " "), color=figures.OTHER)
    plot.update_yaxes(nticks=6)
    if tozero:
        plot.update_yaxes(rangemode="tozero")
    if level is not None:
        plot.add_hline(y=level, line={"width": 1, "color": figures.QUIET})
    return plot


def add_line(plot: go.Figure, rows: Sequence[Row], key: str, *, name: str, color: str) -> None:
    """Through the rows that have a value: gradients, for one, are not measured for every row."""
    points = [(row["step"], row[key]) for row in rows if known(row, key)]
    plot.add_scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        mode="lines+markers" if len(points) < 15 else "lines",
        name=name,
        line={"color": color, "width": 2},
        marker={"size": 5},
        hovertemplate=f"{name}, step %{{x:,}}: %{{y:.3g}}<extra></extra>",
    )


def known(row: Row, *keys: str) -> bool:
    """Whether the row has a value for each key."""
    return all(row.get(key) is not None for key in keys)
