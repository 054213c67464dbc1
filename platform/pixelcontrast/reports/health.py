"""Health of the embedding: what the contrast did in a run, as small plots over its steps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from pixelcontrast.reports import figures, html, lines
from pixelcontrast.runs.record import RunRecord
from pixelcontrast.runs.run_folder import Row
from pixelcontrast.words import NOTHING, percent, signed

TITLE = "Health of the embedding"
_OPEN, _INVERTED = "rgba(59,126,161,0.22)", "rgba(201,42,42,0.35)"
_HEALTHY = (
    "What healthy looks like: positives lie above negatives, and the gap between them opens; the mean "
    "embedding norm stays well below 1."
)
_READING = (
    "Similarity: the mean cosine of an embedding with others of its own class (positives) and of other "
    "classes (negatives), in the same batch or in the memory. Blue between the lines: positives are more "
    "similar; red: negatives are. If the gap is open in the batch but not in the memory, the memory's "
    "rows are too old. Gradient ratio: the size of the contrast's gradient on the features over that of "
    "the other losses; far above 1 the contrast alone decides what is learnt, far below 1 it changes "
    "little. A gradient cosine above 0 means that both pull in the same direction."
)


def embedding(run: RunRecord) -> Markup:
    """The run's warnings, and the picture with its captions; empty without contrast."""
    if not any(lines.known(row, "mean_embedding_norm") for row in run.trained):
        return html.NOTHING_TO_SHOW
    warnings = [
        html.paragraph(f"Step {row['step']:,}: {line}", kind="warning")
        for row in run.trained
        for line in row.get("warnings", {}).values()
    ]
    warmup = run.settings["contrast.warmup"] * run.settings["optim.steps"]
    reading = _READING
    if warmup:
        reading += " Up to the dotted line (warm-up), the contrast trains the projection head alone."
    grid = html.grid(_plots(run.trained, warmup), name="embedding", label=TITLE)
    healthy, reading = (html.paragraph(words, kind="note") for words in (_HEALTHY, reading))
    return html.join(*warnings, healthy, grid, reading)


def class_table(run: RunRecord) -> Markup:
    """IoU and gap of every class; empty without contrast."""
    row = next((row for row in reversed(run.trained) if "class_gap" in row), None)
    if row is None:
        return html.NOTHING_TO_SHOW
    iou, gaps = run.evaluations[-1]["iou"], row["class_gap"]
    rows = [
        [
            html.cell(name),
            html.number(percent(share), share),
            html.number(signed(gaps.get(name)), gaps.get(name)),
        ]
        for name, share in iou.items()
    ]
    words = (
        "Gap: how much more similar the embeddings of a class are to each other than to those of other "
        f"classes, in the batches before step {row['step']:,}; {NOTHING} where the class was not met."
    )
    table = html.table(("class", "IoU, %", "gap"), rows, label="IoU and gap per class", sortable=True)
    return html.paragraph(words, kind="note") + table


def _plots(rows: Sequence[Row], warmup: float) -> list[tuple[str, go.Figure]]:
    """Titles and plots of what the rows have values for, all over the same steps."""
    plots = [
        ("Similarity in the batch", _similarity(rows, "batch")),
        ("Similarity with the memory", _similarity(rows, "memory")),
        ("Mean embedding norm", _norm(rows)),
        ("Gradient ratio", _ratio(rows)),
        ("Gradient cosine", lines.line(rows, "gradient_cosine", level=0.0)),
        ("Age of the memory, steps", lines.line(rows, "memory_age", tozero=True)),
    ]
    found = [(title, plot) for title, plot in plots if plot is not None]
    for _, plot in found:
        plot.update_xaxes(range=[0, max(row["step"] for row in rows)], nticks=5)
        if warmup:
            plot.add_vline(x=warmup, line={"dash": "dot", "width": 1, "color": figures.QUIET})
    return found


def _similarity(rows: Sequence[Row], source: str) -> go.Figure | None:
    """Positives against negatives, with what lies between them shaded."""
    keys = f"{source}_positive_similarity", f"{source}_negative_similarity"
    if not any(lines.known(row, *keys) for row in rows):
        return None
    plot = figures.base(height=lines.HEIGHT, x="step", legend=True)
    plot.update_yaxes(nticks=6)
    between = _crossed([(row["step"], row[keys[0]], row[keys[1]]) for row in rows if lines.known(row, *keys)])
    for color, is_open in ((_OPEN, True), (_INVERTED, False)):
        edges = [(step, max(p, n) if is_open else min(p, n), n) for step, p, n in between]
        plot.add_scatter(
            x=[step for step, _, _ in edges] + [step for step, _, _ in reversed(edges)],
            y=[edge for _, edge, _ in edges] + [n for _, _, n in reversed(edges)],
            fill="toself",
            fillcolor=color,
            mode="none",
            hoverinfo="skip",
            showlegend=False,
        )
    for key, name, color in ((keys[0], "positives", figures.OTHER), (keys[1], "negatives", figures.BEST)):
        lines.add_line(plot, rows, key, name=name, color=color)
    return plot


def _crossed(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """(x, a, b) with a point added wherever the lines of a and b cross."""
    found = list(points[:1])
    for before, after in pairwise(points):
        gaps = before[1] - before[2], after[1] - after[2]
        if gaps[0] * gaps[1] < 0:
            part = gaps[0] / (gaps[0] - gaps[1])
            x, y = (before[i] + part * (after[i] - before[i]) for i in (0, 1))
            found.append((x, y, y))
        found.append(after)
    return found


def _norm(rows: Sequence[Row]) -> go.Figure | None:
    plot = lines.line(rows, "mean_embedding_norm", level=1.0)
    if plot is not None:
        plot.update_yaxes(range=[0, 1.12])
        place: dict[str, Any] = {"x": 1, "xref": "x domain", "xanchor": "right"}
        plot.add_annotation(text="1: collapsed", y=1, yanchor="bottom", showarrow=False, **place)
    return plot


def _ratio(rows: Sequence[Row]) -> go.Figure | None:
    """On a logarithmic axis, with ticks at 1, 2 and 5 where it spans few powers of ten."""
    plot = lines.line(rows, "gradient_ratio", level=1.0)
    if plot is not None:
        values = [row["gradient_ratio"] for row in rows if row.get("gradient_ratio")]
        is_narrow = bool(values) and max(values) < 100 * min(values)
        ticks = [
            digit * 10.0**power for power in range(-6, 7) for digit in ((1, 2, 5) if is_narrow else (1,))
        ]
        plot.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return plot
