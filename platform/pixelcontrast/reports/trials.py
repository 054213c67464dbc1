"""The trials of a search: their table, and their curves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pixelcontrast.reports import figures, html, parts
from pixelcontrast.reports.table import changed_keys
from pixelcontrast.runs.search_record import SearchRecord, TrialRecord
from pixelcontrast.words import NOTHING, STATES, duration, percent, setting, signed


@dataclass(frozen=True)
class _Column:
    """A column of the table."""

    head: str
    cell: Callable[[TrialRecord], html.Cell]
    folds: bool = True
    """Left out of the table, and said below it, where it holds the same in every row."""


def trials(search: SearchRecord) -> Markup:
    """The sortable table; below it what all trials share, and failed trials' errors."""
    if not search.trials:
        return html.paragraph("No trial has been started yet.")
    is_space = search.kind == "space"
    best = search.best if is_space else None
    strong = None if best is None else search.trials.index(best)
    columns, shared = _folded(_columns(search), search.trials)
    rows = [[column.cell(trial) for column in columns] for trial in search.trials]
    heads = [column.head for column in columns]
    table = html.table(heads, rows, label="Trials", sortable=True, strong=strong)
    words = f"The same in all: {'; '.join(shared)}. " if shared else ""
    if any(column.head == "gap" for column in columns):
        words += (
            "Gap and mean norm are the health of the embedding at the end: how much more similar embeddings "
            "are to their own class than to others, and the norm of their mean, which is 1 if all are equal."
        )
    notes = html.paragraph(words, kind="note") if words else html.NOTHING_TO_SHOW
    return html.join(table, notes, parts.downloads(search), _errors(search))


def _columns(search: SearchRecord) -> list[_Column]:
    found = [
        _Column("trial", lambda trial: html.Cell(content=_name(trial), sort=trial.number), folds=False),
        _Column("state", _state, folds=False),
    ]
    if search.kind == "arms":
        found += [
            _Column("arm", lambda trial: html.cell(trial.arm or NOTHING), folds=False),
            _Column("seed", lambda trial: html.number(str(trial.seed), trial.seed), folds=False),
        ]
    found.append(_Column("mIoU, %", lambda trial: html.number(percent(trial.miou), trial.miou), folds=False))
    if search.kind == "space":
        found += [_setting_column(key) for key in changed_keys(search)]
    found += [
        _measured("best\nmIoU, %", "best_miou", percent),
        _measured("at\nstep", "best_step", _whole),
        _measured("steps", "steps", _whole),
        _measured("s per\nstep", "seconds_per_step", lambda value: f"{value:.3g}"),
        _measured("time", "seconds", duration),
        _measured("gap", "gap", signed),
        _measured("mean\nnorm", "mean_embedding_norm", lambda value: f"{value:.2f}"),
    ]
    if any(trial.summary.get("worker_seconds") != trial.summary.get("seconds") for trial in search.trials):
        found.append(_measured("worker\ntime", "worker_seconds", duration))
    return found


def _folded(columns: Iterable[_Column], rows: Sequence[TrialRecord]) -> tuple[list[_Column], list[str]]:
    """The columns in which the rows differ, and what the others hold, as ``steps 800``."""
    kept: list[_Column] = []
    shared: list[str] = []
    for column in columns:
        contents = {column.cell(trial).content for trial in rows}
        if not column.folds or len(rows) == 1 or len(contents) > 1:
            kept.append(column)
        elif contents != {NOTHING}:
            shared.append(f"{_one_line(column.head)} {contents.pop()}")
    return kept, shared


def _one_line(head: str) -> str:
    return head.replace(".\n", ".").replace("_\n", "_").replace("\n", " ")


def _name(trial: TrialRecord) -> str:
    return trial.run or f"trial {trial.number}"


def _state(trial: TrialRecord) -> html.Cell:
    return html.Cell(content=html.state(trial.state), sort=STATES.get(trial.state, trial.state))


def _setting_column(key: str) -> _Column:
    section, _, field = key.partition(".")
    words = field.rpartition("_")
    lines = [f"{section}.", *(part for part in (words[0] + words[1], words[2]) if part)]
    return _Column("\n".join(lines), lambda trial: _setting(trial.overrides.get(key)))


def _setting(value: object) -> html.Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return html.number(setting(value), value)
    return html.cell(setting(value))


def _measured(head: str, key: str, shown: Callable[[float], str]) -> _Column:
    """A number of the runs' summaries."""

    def cell(trial: TrialRecord) -> html.Cell:
        value = trial.summary.get(key)
        return html.number(NOTHING if value is None else shown(value), value)

    return _Column(head, cell)


def _whole(value: float) -> str:
    return f"{value:,}"


def _errors(search: SearchRecord) -> Markup:
    errors = {_name(trial): trial.error for trial in search.trials if trial.error}
    return html.heading("What failed") + html.facts(errors) if errors else html.NOTHING_TO_SHOW


def state_curves(search: SearchRecord) -> Markup:
    """mIoU over steps of all trials, by state; the best, or the Pareto front, on top."""
    chosen = search.front if search.best is None else [search.best]
    title = "Pareto front" if search.best is None else "best trial"
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
        for trial in chosen
        if trial.curve
    ]
    if not lines:
        return html.paragraph("Nothing has been evaluated yet.")
    return html.figure(figures.curves(lines), name="curves", label="mIoU over steps of all trials")


def _title(trial: TrialRecord) -> str:
    return f"{trial.run}, {STATES[trial.state]}"
