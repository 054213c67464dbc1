"""The trials of a search: their table, and their curves."""

from markupsafe import Markup

from pixelcontrast.reports import figures, html, parts
from pixelcontrast.reports.table import changed_keys
from pixelcontrast.runs.search_record import SearchRecord, TrialRecord
from pixelcontrast.words import NOTHING, STATES, duration, percent, setting, signed


def trials(search: SearchRecord) -> Markup:
    """The sortable table; failed trials' errors below it."""
    if not search.trials:
        return html.paragraph("No trial has been started yet.")
    is_space = search.kind == "space"
    keys = changed_keys(search) if is_space else []
    names = ["arm", "seed"] if not is_space else []
    heads = ["trial", "state", *names, "mIoU, %", *(key.replace(".", ".\n") for key in keys)]
    heads += ["best\nmIoU, %", "at\nstep", "steps", "s per\nstep", "time", "worker\ntime"]
    heads += ["gap", "mean\nnorm"]
    best = search.best if is_space else None
    strong = None if best is None else search.trials.index(best)
    rows = [_row(trial, keys, with_arm=not is_space) for trial in search.trials]
    table = html.table(heads, rows, label="Trials", sortable=True, strong=strong)
    words = (
        "Gap and mean norm are the health of the embedding at the end: how much more similar embeddings are "
        "to their own class than to others, and the norm of their mean, which is 1 if all are equal."
    )
    notes = html.paragraph(words, kind="note") + parts.downloads(search)
    return table + notes + _errors(search)


def _row(trial: TrialRecord, keys: list[str], *, with_arm: bool) -> list[html.Cell]:
    summary = trial.summary
    row = [
        html.Cell(content=trial.run or f"trial {trial.number}", sort=trial.number),
        html.Cell(content=html.state(trial.state), sort=STATES.get(trial.state, trial.state)),
    ]
    if with_arm:
        row += [html.cell(trial.arm or NOTHING), html.number(str(trial.seed), trial.seed)]
    row.append(html.number(percent(trial.miou), trial.miou))
    row += [_setting(trial.overrides.get(key)) for key in keys]
    per_step = summary.get("seconds_per_step")
    norm = summary.get("mean_embedding_norm")
    return [
        *row,
        html.number(percent(summary.get("best_miou")), summary.get("best_miou")),
        _count(summary.get("best_step")),
        _count(summary.get("steps")),
        html.number(NOTHING if per_step is None else f"{per_step:.3g}", per_step),
        html.number(duration(summary.get("seconds")), summary.get("seconds")),
        html.number(duration(summary.get("worker_seconds")), summary.get("worker_seconds")),
        html.number(signed(summary.get("gap")), summary.get("gap")),
        html.number(NOTHING if norm is None else f"{norm:.2f}", norm),
    ]


def _setting(value: object) -> html.Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return html.number(setting(value), value)
    return html.cell(setting(value))


def _count(value: int | None) -> html.Cell:
    return html.number(NOTHING if value is None else f"{value:,}", value)


def _errors(search: SearchRecord) -> Markup:
    errors = {trial.run or f"trial {trial.number}": trial.error for trial in search.trials if trial.error}
    return html.heading("What failed") + html.facts(errors) if errors else html.NOTHING_TO_SHOW


def state_curves(search: SearchRecord) -> Markup:
    """mIoU over steps of all trials, by state; the best, or the Pareto front, on top."""
    chosen = search.front
    title = "best trial" if search.best is not None else "Pareto front"
    lines = [
        figures.Curve(
            _title(trial), trial.curve, group=STATES[trial.state], color=figures.STATE_COLORS[trial.state]
        )
        for state in ("FAIL", "PRUNED", "RUNNING", "COMPLETE")
        for trial in search.in_state(state)
        if trial.curve and trial not in chosen
    ]
    lines += [
        figures.Curve(_title(trial), trial.curve, group=title, color=figures.BEST, strong=True)
        for trial in ([search.best] if search.best is not None else chosen)
        if trial.curve
    ]
    if not lines:
        return html.paragraph("Nothing has been evaluated yet.")
    return html.figure(figures.curves(lines), name="curves", label="mIoU over steps of all trials")


def _title(trial: TrialRecord) -> str:
    return f"{trial.run}, {STATES[trial.state]}"
