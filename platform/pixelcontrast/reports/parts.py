"""Sections that every kind of report has: predictions, confusion, cost, configuration, provenance."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pixelcontrast.reports import figures, html
from pixelcontrast.runs.pictures import read_pictures
from pixelcontrast.runs.run_folder import read_confusion
from pixelcontrast.runs.search_record import SearchRecord, TrialRecord
from pixelcontrast.storage import Storage
from pixelcontrast.words import NOTHING, STATES, count, duration, moment

_RECORDED = {
    "git": "code (git commit)",
    "source": "code (hash of its files)",
    "configuration": "configuration (hash)",
    "machine": "machine",
    "world_size": "workers",
    "threads": "threads per worker",
    "compile": "compiled",
    "seed": "seed",
    "started": "started",
    "from_step": "from step",
}


def overlays(run: Storage, name: str | None, *, label: str) -> Markup:
    """The sheet of validation images, truth and predictions; nothing where it is not there."""
    if name is None or not run.exists(name):
        return html.NOTHING_TO_SHOW
    return html.picture(run.read(name), label=label)


def pictures(folder: Storage) -> Markup:
    """What ``pixelcontrast inspect`` drew into a folder; nothing where it has not."""
    shown = [
        html.heading(picture.title)
        + html.drawing(folder.read(picture.file), label=f"{picture.title}. {picture.words}")
        for picture in read_pictures(folder)
    ]
    return html.join(*shown)


def confusion(run: Storage) -> Markup:
    """The confusion matrix of the run's last evaluation; nothing where there is none."""
    found = read_confusion(run)
    if found is None:
        return html.NOTHING_TO_SHOW
    plot = figures.confusion(found["classes"], found["pixels"])
    words = (
        f"After step {found['step']:,}. A row has the pixels of one true class, as shares of 100 %; "
        "the diagonal is what was recognised. Rows without pixels are empty."
    )
    return html.paragraph(words, kind="note") + html.figure(
        plot, name="confusion", label="Confusion matrix", min_width=figures.confusion_width(found["classes"])
    )


def configuration(settings: Mapping[str, Any], *, title: str) -> Markup:
    """All settings, folded."""
    shown = {key: json.dumps(value, ensure_ascii=False) for key, value in settings.items()}
    return html.folded(title, html.facts(shown))


def provenance(attempt: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Markup:
    """Where a run comes from, and in what the other runs differ from it.

    Args:
        attempt: the run's last.
        others: the last attempts of all runs of the search.
    """
    if not attempt:
        return html.NOTHING_TO_SHOW
    shown: dict[str, object] = {label: attempt[key] for key, label in _RECORDED.items() if key in attempt}
    versions = attempt.get("versions", {})
    shown["versions"] = ", ".join(f"{package} {version}" for package, version in versions.items())
    for split, fingerprint in attempt.get("data", {}).items():
        shown[f"{split} images (fingerprint)"] = fingerprint
    return html.facts(shown) + _differences(attempt, others)


def _differences(attempt: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> Markup:
    if len(others) < 2:
        return html.NOTHING_TO_SHOW
    keys = ("git", "source", "versions", "machine", "world_size", "threads", "compile", "data")
    labels = _RECORDED | {"versions": "versions", "data": "data"}
    mixed = [labels[key] for key in keys if any(other.get(key) != attempt.get(key) for other in others)]
    if mixed:
        words = f"Not the same in all {len(others)} runs: {', '.join(mixed)}."
        return html.paragraph(words)
    same = "Code, versions, machine, workers, threads, compilation and data"
    return html.paragraph(f"{same} are the same in all {len(others)} runs.", kind="note")


def cost(search: SearchRecord) -> Markup:
    """Steps and time by the trials' states."""
    rows, total = [], _worker_seconds(search.trials)
    for state in STATES:
        trials = search.in_state(state)
        if trials:
            rows.append(_cost_row(html.Cell(content=html.state(state)), trials, total))
    if not rows:
        return html.NOTHING_TO_SHOW
    if len(rows) > 1:
        rows.append(_cost_row(html.cell("all"), search.trials, total))
    heads = ("trials", "number", "steps trained", "time", "worker time", "share")
    strong = len(rows) - 1 if len(rows) > 1 else None
    return html.table(heads, rows, label="Cost by state", strong=strong) + html.paragraph(
        "Time runs from the start of a run's workers to its last row of metrics, and is added up over "
        "trials; worker time is that times the number of workers. Work that was lost in a restart is not "
        "counted. " + _elapsed(search),
        kind="note",
    )


def _cost_row(title: html.Cell, trials: Sequence[TrialRecord], total: float) -> list[html.Cell]:
    seconds = sum(trial.summary.get("seconds", 0.0) for trial in trials)
    workers = _worker_seconds(trials)
    steps = sum(trial.summary.get("steps", 0) for trial in trials)
    share = f"{100 * workers / total:.0f} %" if total else NOTHING
    return [
        title,
        html.number(f"{len(trials)}", len(trials)),
        html.number(f"{steps:,}", steps),
        html.number(duration(seconds), seconds),
        html.number(duration(workers), workers),
        html.number(share, workers),
    ]


def _worker_seconds(trials: Sequence[TrialRecord]) -> float:
    return sum(trial.summary.get("worker_seconds", 0.0) for trial in trials)


def worker_time(search: SearchRecord) -> str:
    return duration(_worker_seconds(search.trials))


def _elapsed(search: SearchRecord) -> str:
    starts = [trial.summary["started"] for trial in search.trials if "started" in trial.summary]
    ends = [trial.ended for trial in search.trials if trial.ended is not None]
    if not starts or not ends:
        return ""
    return (
        f"The first run started {moment(min(starts))}, the last row is of {moment(max(ends))}: "
        f"{duration(max(ends) - min(starts))} in between."
    )


def states(trials: Sequence[TrialRecord]) -> str:
    """``4 complete, 12 stopped early``."""
    numbers = {state: sum(trial.state == state for trial in trials) for state in STATES}
    return ", ".join(f"{number} {STATES[state]}" for state, number in numbers.items() if number)


def downloads(search: SearchRecord) -> Markup:
    """Where else the trials' rows are."""
    return html.downloads(count(len(search.trials), "row"), ("trials.csv", "trials.parquet"))
