"""Reads what a report shows: a run's folder, or a search's folder with its study. Writes nothing."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pixelcontrast import config
from pixelcontrast.runs.run_folder import Row, read_attempts, read_result, read_rows
from pixelcontrast.runs.storage import Storage
from pixelcontrast.runs.summary import summarize
from pixelcontrast.search.folder import JOURNAL, SEARCH, local_folder, open_study_storage
from pixelcontrast.search.trials import handed_out

EXPERIMENT = "experiment.json"
MAXIMIZED = frozenset({"miou"})
"""Objectives of which more is better."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's folder, as far as it has come."""

    name: str
    storage: Storage
    settings: Mapping[str, Any]
    """Dotted key → JSON value; of what was trained."""
    rows: list[Row]
    attempts: list[Row]
    summary: Mapping[str, Any]
    """What ``runs.summary.summarize`` gives."""
    finished: bool

    @property
    def trained(self) -> list[Row]:
        return [row for row in self.rows if row["kind"] == "train"]

    @property
    def evaluated(self) -> list[Row]:
        return [row for row in self.rows if row["kind"] == "eval"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial of the study, with what its run's folder adds."""

    number: int
    run: str
    """Name of its run; empty if the search was cut off before it had one."""
    state: str
    """COMPLETE, PRUNED, FAIL or RUNNING."""
    arm: str | None
    seed: int | None
    overrides: Mapping[str, Any]
    values: Sequence[float]
    """By objective; empty unless COMPLETE."""
    summary: Mapping[str, Any]
    """What ``runs.summary.summarize`` gives; empty where nothing has been trained."""
    curve: tuple[tuple[int, float], ...]
    """(step, mIoU) of every evaluation."""
    iou: Mapping[str, float | None]
    """Per class, of the last evaluation; None of a class that neither occurs nor is predicted."""
    ended: float | None
    """Time of the last row, in seconds since the epoch."""
    attempt: Mapping[str, Any]
    """The run's last, with its provenance; empty where none has started."""
    error: str
    frozen: FrozenTrial

    @property
    def miou(self) -> float | None:
        """Of the last evaluation."""
        return self.summary.get("last_miou")


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """A search's folder: its settings, and the study's trials by number."""

    name: str
    storage: Storage
    kind: str
    """``space`` or ``arms``."""
    program: str
    """The experiment's file, as it was called."""
    settings: Mapping[str, Any]
    """Dotted key → JSON value; of the experiment that the trials change."""
    space: Mapping[str, Mapping[str, Any]]
    """Searched key → its dimension's fields; empty for arms."""
    arms: Mapping[str, Mapping[str, Any]]
    objectives: Sequence[str]
    trials: tuple[Trial, ...]

    def in_state(self, state: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == state]

    @property
    def best(self) -> Trial | None:
        """By the only objective; None with several, or while no trial is complete."""
        complete = self.in_state("COMPLETE")
        if len(self.objectives) > 1 or not complete:
            return None
        sign = 1 if self.objectives[0] in MAXIMIZED else -1
        return max(complete, key=lambda trial: sign * trial.values[0])

    @property
    def front(self) -> list[Trial]:
        """Complete trials that no other beats in one objective and equals in the rest."""
        complete = self.in_state("COMPLETE")
        return [trial for trial in complete if not any(self._dominates(other, trial) for other in complete)]

    @property
    def baseline(self) -> Trial | None:
        """The complete trial that has the experiment's own values; by default trial 0."""
        if not self.space:
            return None
        own = {key: self.settings[key] for key in self.space}
        return next((trial for trial in self.in_state("COMPLETE") if dict(trial.overrides) == own), None)

    def scores(self, class_name: str | None = None) -> dict[str, dict[int, float]]:
        """Arm → seed → mIoU, or a class's IoU, after the last step, of the runs that are complete."""
        found: dict[str, dict[int, float]] = {arm: {} for arm in self.arms}
        for trial in self.in_state("COMPLETE"):
            score = trial.miou if class_name is None else trial.iou.get(class_name)
            if trial.arm is not None and trial.seed is not None and score is not None:
                found.setdefault(trial.arm, {})[trial.seed] = score
        return found

    def _dominates(self, other: Trial, trial: Trial) -> bool:
        signs = [1 if name in MAXIMIZED else -1 for name in self.objectives]
        gains = [sign * (a - b) for sign, a, b in zip(signs, other.values, trial.values, strict=True)]
        return min(gains) >= 0 and max(gains) > 0


def class_names(trials: tuple[Trial, ...] | list[Trial]) -> list[str]:
    """The classes of the data set, in its order; none while nothing is evaluated."""
    return list(dict.fromkeys(name for trial in trials for name in trial.iou))


def read(location: str) -> Run | SearchRecord:
    """What lies at a folder or URI.

    Raises:
        ValueError: neither a run's nor a search's folder, or one that this version cannot read.
    """
    storage = Storage(location)
    try:
        if storage.exists(SEARCH):
            return read_search(storage)
        if storage.exists(EXPERIMENT):
            return read_run(storage)
    except OSError as error:
        raise ValueError(f"{location} cannot be read: {error}") from error
    raise ValueError(
        f"{location} is neither a run's folder, which has {EXPERIMENT}, nor a search's, which has {SEARCH}"
    )


def read_run(run: Storage) -> Run:
    """A run's folder; raises ``ValueError`` if its configuration is not readable by this version."""
    return Run(
        name=_name(run),
        storage=run,
        settings=_settings(run, EXPERIMENT, run.read(EXPERIMENT)),
        rows=read_rows(run),
        attempts=read_attempts(run),
        summary=summarize(run),
        finished=read_result(run) is not None,
    )


def read_search(search: Storage) -> SearchRecord:
    """A search's folder, whatever state its trials are in."""
    description = json.loads(search.read(SEARCH))
    with _study_storage(search, description["search"].get("study")) as storage:
        frozen = _frozen_trials(storage, _name(search))
    is_space = description["kind"] == "space"
    return SearchRecord(
        name=_name(search),
        storage=search,
        kind=description["kind"],
        program=description["program"],
        settings=_settings(search, SEARCH, json.dumps(description["experiment"])),
        space=description["search"]["space"] if is_space else {},
        arms=description["arms"],
        objectives=tuple(description["search"]["objectives"]) if is_space else ("miou",),
        trials=tuple(_trial(search, trial) for trial in frozen),
    )


@contextmanager
def _study_storage(search: Storage, url: str | None) -> Iterator[optuna.storages.BaseStorage | None]:
    """The study's storage; None where there is no journal yet, which opening would create."""
    if url is not None:
        yield open_study_storage(local_folder(search), url)
    elif not search.exists(JOURNAL):
        yield None
    elif search.is_local:
        yield open_study_storage(local_folder(search), None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / JOURNAL).write_bytes(search.read(JOURNAL))
            yield open_study_storage(Path(folder), None)


def _frozen_trials(storage: optuna.storages.BaseStorage | None, name: str) -> list[FrozenTrial]:
    """The trials of the study; a journal's only study also where the folder has been renamed."""
    names = [] if storage is None else optuna.get_all_study_names(storage)
    if storage is None or (name not in names and len(names) != 1):
        return []
    study = optuna.load_study(study_name=name if name in names else names[0], storage=storage)
    return handed_out(study)


def _trial(search: Storage, frozen: FrozenTrial) -> Trial:
    attributes = frozen.user_attrs
    name = attributes.get("run", "")
    run = search / name if name else None
    there = run is not None and run.exists(EXPERIMENT)
    rows = read_rows(run) if run is not None and there else []
    attempts = read_attempts(run) if run is not None and there else []
    summary = {key: value for key, value in attributes.items() if key not in _NOTED}
    if run is not None and there and "attempts" not in summary:
        summary = summarize(run)
    evaluated = [row for row in rows if row["kind"] == "eval"]
    return Trial(
        number=frozen.number,
        run=name,
        state=frozen.state.name,
        arm=attributes.get("arm"),
        seed=attributes.get("seed"),
        overrides=attributes.get("overrides", {}),
        values=tuple(frozen.values or ()) if frozen.state == TrialState.COMPLETE else (),
        summary=summary,
        curve=tuple((row["step"], row["miou"]) for row in evaluated) or _reported(frozen),
        iou=evaluated[-1]["iou"] if evaluated else {},
        ended=rows[-1]["time"] if rows else None,
        attempt=attempts[-1] if attempts else {},
        error=str(attributes.get("error", "")),
        frozen=frozen,
    )


_NOTED = frozenset({"run", "overrides", "arm", "seed", "error"})


def _reported(frozen: FrozenTrial) -> tuple[tuple[int, float], ...]:
    """What the study itself knows of the curve, where the run's folder is gone."""
    return tuple(sorted(frozen.intermediate_values.items()))


def _settings(folder: Storage, name: str, text: str | bytes) -> dict[str, Any]:
    try:
        return config.flatten(config.from_json(text))
    except ValueError as error:
        raise ValueError(f"{folder.path(name)} is not readable by this version: {error}") from error


def _name(folder: Storage) -> str:
    root = str(Path(folder.root).resolve()) if folder.is_local else folder.root
    return root.rstrip("/").rsplit("/", 1)[-1]


def started_at(attempt: Row) -> float:
    """When an attempt began, in seconds since the epoch."""
    return datetime.fromisoformat(attempt["started"]).timestamp()
