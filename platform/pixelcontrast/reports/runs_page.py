"""The report of any runs side by side, each against the first."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pixelcontrast.config import PLACEMENT
from pixelcontrast.reports import figures, html, parts
from pixelcontrast.runs.record import RunRecord
from pixelcontrast.storage import Storage
from pixelcontrast.words import NOTHING, duration, moment, percent, points, setting


def runs_page(runs: Sequence[RunRecord], *, inspected: Storage, written: float) -> str:
    """The whole HTML file.

    Args:
        runs: two or more.
        inspected: the folder with the pictures of these runs, if there are any.
        written: when, in seconds since the epoch.
    """
    names = _names(runs)
    lead = html.Lead(
        kicker="Comparison of runs",
        title=" and ".join(names) if len(names) == 2 else f"{names[0]} and {len(names) - 1} others",
        words=f"{len(runs)} runs, each against {names[0]}.",
        location=", ".join(run.storage.location for run in runs),
        written=moment(written),
    )
    sections = [
        html.Section("Result", _result(runs, names)),
        html.Section("Settings that differ", _settings(runs, names)),
        html.Section("Curves", _curves(runs, names)),
        html.Section("Classes", _classes(runs, names)),
        html.Section("Predictions", _predictions(runs, names)),
        html.Section("Inspection", parts.pictures(inspected)),
    ]
    return html.page(f"{lead.title}: report", lead=lead, sections=sections)


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names, with as many of the folders above them as tell those of one name apart."""
    paths = [tuple(run.storage.root.rstrip("/").split("/")) for run in runs]
    names = []
    for path in paths:
        alike = [other for other in paths if other[-1] == path[-1]]
        deep = next((n for n in range(1, len(path)) if [p[-n:] for p in alike].count(path[-n:]) == 1), 0)
        names.append("/".join(path[-deep:]))
    return names


def _result(runs: Sequence[RunRecord], names: Sequence[str]) -> Markup:
    first = _last(runs[0]).get("miou")
    rows = []
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        last, summary = _last(run), run.summary
        row = [
            html.cell(name),
            html.number(percent(last.get("miou")), last.get("miou")),
            _difference(last.get("miou"), first) if index else html.number(NOTHING, None),
            html.number(percent(summary.get("best_miou")), summary.get("best_miou")),
            html.number(percent(last.get("pixel_accuracy")), last.get("pixel_accuracy")),
            html.number(f"{last['step']:,}" if last else NOTHING, last.get("step")),
            html.number(str(run.settings["run.seed"]), run.settings["run.seed"]),
            html.number(duration(summary.get("seconds")), summary.get("seconds")),
        ]
        rows.append(row)
    heads = (
        "run",
        "mIoU, %",
        f"minus\n{names[0]}",
        "best\nmIoU, %",
        "pixel\naccuracy, %",
        "after\nstep",
        "seed",
        "time",
    )
    words = (
        "By the last evaluation of each run. Differences are in percentage points, of one training each: "
        "another seed alone moves them. Compare arms on several seeds before you rely on one."
    )
    return html.table(heads, rows, label="Runs", sortable=True) + html.paragraph(words, kind="note")


def _difference(value: float | None, reference: float | None) -> html.Cell:
    if value is None or reference is None:
        return html.number(NOTHING, None)
    return html.number(points(value - reference), value - reference)


def _settings(runs: Sequence[RunRecord], names: Sequence[str]) -> Markup:
    """What decides the result and is not the same in all."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in PLACEMENT)
    rows = []
    for key in keys:
        values = [run.settings.get(key) for run in runs]
        if any(value != values[0] for value in values):
            rows.append([html.cell(key), *(html.cell(setting(value)) for value in values)])
    if not rows:
        return html.paragraph(
            "None: the runs have the same settings, but for where and how often they write."
        )
    return html.table(("setting", *names), rows, label="Settings that differ")


def _curves(runs: Sequence[RunRecord], names: Sequence[str]) -> Markup:
    lines = [
        figures.Curve(name, points, group=name, color=_color(index))
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
        if (points := [(row["step"], row["miou"]) for row in run.evaluations])
    ]
    if not lines:
        return html.paragraph("Nothing has been evaluated yet.")
    return html.figure(figures.curves(lines), name="curves", label="mIoU over steps of each run")


def _color(index: int) -> str:
    return figures.ARM_COLORS[index % len(figures.ARM_COLORS)]


def _classes(runs: Sequence[RunRecord], names: Sequence[str]) -> Markup:
    ious = [_last(run).get("iou", {}) for run in runs]
    classes = dict.fromkeys(name for iou in ious for name in iou)
    if not classes:
        return html.NOTHING_TO_SHOW
    heads = ["class", f"{names[0]}, %"]
    for name in names[1:]:
        heads += [f"{name}, %", f"{name}\n− {names[0]}"]
    rows = []
    for name in classes:
        row = [html.cell(name)]
        for index, iou in enumerate(ious):
            row.append(html.number(percent(iou.get(name)), iou.get(name)))
            if index:
                row.append(_difference(iou.get(name), ious[0].get(name)))
        rows.append(row)
    return html.paragraph(
        "IoU of each run's last evaluation, and the difference in points.", kind="note"
    ) + html.table(heads, rows, label="IoU per class", sortable=True)


def _predictions(runs: Sequence[RunRecord], names: Sequence[str]) -> Markup:
    pictures = []
    for run, name in zip(runs, names, strict=True):
        label = f"Validation images, truth and prediction of {name}"
        sheet = parts.overlays(run.storage, run.summary.get("overlays"), label=label)
        if sheet:
            pictures.append(html.folded(name, sheet, opened=not pictures))
    return html.join(*pictures)


def _last(run: RunRecord) -> dict[str, Any]:
    """The last evaluation; empty where there is none."""
    return run.evaluations[-1] if run.evaluations else {}
