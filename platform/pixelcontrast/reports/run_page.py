"""The report of a single run."""

from markupsafe import Markup

from pixelcontrast.reports import figures, health, html, lines, parts
from pixelcontrast.runs import pictures
from pixelcontrast.runs.record import RunRecord
from pixelcontrast.runs.summary import started_at
from pixelcontrast.words import NOTHING, count, duration, moment, percent


def run_page(run: RunRecord, *, written: float) -> str:
    """The whole HTML file."""
    lead = html.Lead(
        kicker="Run",
        title=run.name,
        words=_progress(run),
        location=run.storage.location,
        written=moment(written),
    )
    label = "Validation images, truth and prediction"
    sections = [
        html.Section("Result", _result(run)),
        html.Section("Curves", _curves(run)),
        html.Section(health.TITLE, health.embedding(run)),
        html.Section("Classes", _classes(run)),
        html.Section("Predictions", parts.overlays(run.storage, run.summary.get("overlays"), label=label)),
        html.Section("Confusion", parts.confusion(run.storage)),
        html.Section("Inspection", parts.pictures(run.storage / pictures.FOLDER)),
        html.Section("Cost", _cost(run)),
        html.Section("Configuration", parts.configuration(run.settings, title="All settings")),
        html.Section("Provenance", parts.provenance(run.attempts[-1] if run.attempts else {})),
    ]
    return html.page(f"{run.name}: report", lead=lead, sections=sections)


def _progress(run: RunRecord) -> str:
    model, layout = run.settings["model.backbone"], run.settings["data.layout"]
    steps, done = run.settings["optim.steps"], run.summary.get("steps", 0)
    state = "finished" if run.finished else "not finished"
    return f"{model} on {layout}: {state}, {done:,} of {count(steps, 'step')}."


def _result(run: RunRecord) -> Markup:
    if not run.evaluations:
        return html.paragraph("Nothing has been evaluated yet.")
    last, summary = run.evaluations[-1], run.summary
    worker_time = duration(summary.get("worker_seconds"))
    return html.cards(
        [
            ("mIoU", f"{percent(last['miou'])} %", f"after step {last['step']:,}"),
            ("Best mIoU", f"{percent(summary['best_miou'])} %", f"at step {summary['best_step']:,}"),
            ("Pixel accuracy", f"{percent(last.get('pixel_accuracy'))} %", f"after step {last['step']:,}"),
            (
                "Time",
                duration(summary.get("seconds")),
                f"worker time {worker_time}",
            ),
        ],
        accent=True,
    )


def _curves(run: RunRecord) -> Markup:
    if not run.trained:
        return html.paragraph("No step has been reported yet.")
    shown = html.heading("Loss") + html.figure(
        figures.losses(run.trained), name="losses", label="Loss over steps"
    )
    if left_out := sum(row.get("skipped", 0) for row in run.trained):
        words = f"{count(left_out, 'step')} left out: loss or gradients were not finite."
        shown += html.paragraph(words, kind="note")
    if run.evaluations:
        points = [(row["step"], row["miou"]) for row in run.evaluations]
        curve = figures.Curve(run.name, points, group="mIoU", color=figures.BEST, strong=True)
        plot = figures.curves([curve], height=300)
        shown += html.heading("mIoU") + html.figure(plot, name="curves", label="mIoU over steps")
    return html.join(shown, _optimisation(run))


def _optimisation(run: RunRecord) -> Markup:
    plots = {
        "Learning rate": lines.line(run.trained, "lr", tozero=True),
        "Gradient norm": lines.line(run.trained, "gradient_norm", tozero=True),
    }
    found = [(title, plot) for title, plot in plots.items() if plot is not None]
    return html.grid(found, name="optimisation", label="Optimisation") if found else html.NOTHING_TO_SHOW


def _classes(run: RunRecord) -> Markup:
    if not run.evaluations:
        return html.NOTHING_TO_SHOW
    last = run.evaluations[-1]
    words = f"After step {last['step']:,}. Classes that neither occur nor are predicted are left out."
    plot = figures.class_bars(last["iou"])
    bars = html.figure(plot, name="classes", label="IoU per class")
    return html.paragraph(words, kind="note") + bars + health.class_table(run)


def _cost(run: RunRecord) -> Markup:
    rows = []
    for attempt in run.attempts:
        times = [row["time"] for row in run.rows if row["attempt"] == attempt["attempt"]]
        seconds = max(max(times) - started_at(attempt), 0.0) if times else None
        workers = None if seconds is None else seconds * attempt["world_size"]
        rows.append(
            [
                html.number(str(attempt["attempt"]), attempt["attempt"]),
                html.cell(moment(started_at(attempt))),
                html.number(f"{attempt['from_step']:,}", attempt["from_step"]),
                html.number(str(attempt["world_size"]), attempt["world_size"]),
                html.number(duration(seconds), seconds),
                html.number(duration(workers), workers),
            ]
        )
    if not rows:
        return html.NOTHING_TO_SHOW
    per_step = run.summary.get("seconds_per_step")
    speed = NOTHING if per_step is None else f"{per_step:.3g} s"
    heads = ("attempt", "started", "from step", "workers", "time", "worker time")
    return html.table(heads, rows, label="Attempts") + html.paragraph(
        f"A step takes {speed} (median). Time runs from the start of the workers to their last row of "
        "metrics; worker time is that times the number of workers. Work that was lost in a restart is not "
        "counted.",
        kind="note",
    )
