"""What a search's folder holds, as one record; ``search.reading`` adds the study's trials."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.runs.record import SEARCH, folder_name
from pixelcontrast.runs.run_folder import parse_experiment, read_json
from pixelcontrast.storage import Storage

MAXIMIZED = frozenset({"miou"})
"""Objectives of which more is better."""
_NEEDED = ("kind", "program", "experiment", "search", "arms")
"""What readers rely on in ``search.json``."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial of the study, with what its run's folder adds."""

    number: int
    run: str
    """Name of its run; empty if the search was cut off before it had one."""
    state: str
    """COMPLETE, PRUNED, FAIL or RUNNING."""
    arm: str | None
    seed: int | None
    overrides: Mapping[str, Any]
    is_baseline: bool
    """Noted when it was proposed: it has the experiment's own values, or what unset ones stand for."""
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
    frozen: Any
    """Optuna's own record of it, for what only Optuna computes."""

    @property
    def miou(self) -> float | None:
        """mIoU of the last evaluation."""
        return self.summary.get("last_miou")


@dataclass(frozen=True, kw_only=True)
class SearchDescription:
    """What a search's ``search.json`` says.

    Attributes:
        name: of its folder.
        kind: ``space`` or ``arms``.
        program: the experiment's file, as it was called.
        experiment: that the trials change.
        space: searched key → its dimension's fields; empty for arms.
        arms: name → overrides.
        objectives: at least one.
        study: URL of the study's database; None where it is a journal in the folder.
    """

    name: str
    storage: Storage
    kind: str
    program: str
    experiment: Experiment
    space: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Any]]
    objectives: Sequence[str]
    study: str | None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key → JSON value of the experiment."""
        return config.flatten(self.experiment)


@dataclass(frozen=True, kw_only=True)
class SearchRecord(SearchDescription):
    """A search: its description, and the study's trials, as ``search.trials.handed_out``."""

    trials: tuple[TrialRecord, ...]

    def in_state(self, state: str) -> list[TrialRecord]:
        """The trials in one of the states of ``TrialRecord.state``."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def ranked(self) -> list[TrialRecord]:
        """The complete trials, the best by the first objective first."""
        sign = -1 if self.objectives[0] in MAXIMIZED else 1
        return sorted(self.in_state("COMPLETE"), key=lambda trial: sign * trial.values[0])

    @property
    def best(self) -> TrialRecord | None:
        """By the only objective; None with several, or while no trial is complete."""
        return next(iter(self.ranked), None) if len(self.objectives) == 1 else None

    @property
    def front(self) -> list[TrialRecord]:
        """Complete trials that no other beats in one objective and equals in the rest."""
        complete = self.in_state("COMPLETE")
        return [trial for trial in complete if not any(self._dominates(other, trial) for other in complete)]

    @property
    def baseline(self) -> TrialRecord | None:
        """The complete trial that has the experiment's own values; by default trial 0."""
        if not self.space:
            return None
        own = {key: self.settings[key] for key in self.space}
        complete = self.in_state("COMPLETE")
        return next((trial for trial in complete if trial.is_baseline or dict(trial.overrides) == own), None)

    @property
    def class_names(self) -> list[str]:
        """The classes of the data set, in its order; none while nothing is evaluated."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.iou))

    def scores(self, class_name: str | None = None) -> dict[str, dict[int, float]]:
        """Arm → seed → mIoU, or a class's IoU, after the last step, of the runs that are complete."""
        found: dict[str, dict[int, float]] = {arm: {} for arm in self.arms}
        for trial in self.in_state("COMPLETE"):
            score = trial.miou if class_name is None else trial.iou.get(class_name)
            if trial.arm is not None and trial.seed is not None and score is not None:
                found.setdefault(trial.arm, {})[trial.seed] = score
        return found

    def _dominates(self, other: TrialRecord, trial: TrialRecord) -> bool:
        signs = [1 if name in MAXIMIZED else -1 for name in self.objectives]
        gains = [sign * (a - b) for sign, a, b in zip(signs, other.values, trial.values, strict=True)]
        return min(gains) >= 0 and max(gains) > 0


def read_content(search: Storage, *, needed: Collection[str] = _NEEDED) -> dict[str, Any]:
    """What ``search.json`` holds, as plain JSON values; raises ``ValueError`` where it is damaged."""
    return read_json(search, SEARCH, needed=needed, remedy="Delete it: the search's own command restores it")


def read_study_url(search: Storage) -> str | None:
    """The URL of the study's database, whatever version wrote the search; None where it is a journal."""
    return read_content(search, needed=("search",))["search"].get("study")


def read_description(search: Storage) -> SearchDescription:
    """Read a search's ``search.json``.

    Raises:
        ValueError: this version cannot read its experiment; one line names the file and the key.
        OSError: the storage cannot be read, or has no search here.
    """
    content = read_content(search)
    where = (search / SEARCH).location
    is_space = content["kind"] == "space"
    return SearchDescription(
        name=folder_name(search),
        storage=search,
        kind=content["kind"],
        program=content["program"],
        experiment=parse_experiment(json.dumps(content["experiment"]), where=where),
        space=content["search"]["space"] if is_space else {},
        arms=content["arms"],
        objectives=tuple(content["search"]["objectives"]) if is_space else ("miou",),
        study=content["search"].get("study"),
    )
