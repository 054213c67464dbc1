"""The trials of a search in an Optuna study: the one record of what was proposed and what came of it."""

import json
import os
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from pixelcontrast.config import Experiment
from pixelcontrast.search.halving import judge
from pixelcontrast.search.own_values import own_point, own_values
from pixelcontrast.search.settings import Dimension, Objective, Range, Search
from pixelcontrast.storage import Storage

_DIRECTIONS: dict[Objective, Literal["minimize", "maximize"]] = {
    "miou": "maximize",
    "seconds_per_step": "minimize",
}
_PROPOSED = {"run", "overrides", "baseline"}
"""Attributes that a trial of a search is handed out with."""
_STOPPED = "stopped_at"
"""System attribute of a trial that shall be stopped early: the step of the evaluation that decided so."""
_RANDOM_TRIALS = 5
"""Trials that must have ended before TPE proposes any; the same whatever number is asked for, as that may
grow."""
OWNER = "folder"
"""Attribute of a study in a database, which searches of other folders share: where its own one's folder lies.
A journal has none: it lies in the folder itself, and moves with it."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A run to make.

    Attributes:
        number: of the trial in the study.
        name: of its run.
        overrides: of the search's experiment, by dotted key.
    """

    number: int
    name: str
    overrides: dict[str, Any]


class Trials:
    """Hands out the runs of a search and records what becomes of them. One process at a time may.

    Whoever dies leaves trials running; the next one hands those out first, under the same number and name, so
    that the runs are resumed. Then come the runs that have failed before, each once more: in a trial of its
    own, as Optuna's finished ones cannot be changed, which stands for the failed one from then on. Arms and
    seeds that are not asked for stay as they are. What is proposed depends only on the search's seed, the
    runs before and how they ended, not on how often the search was interrupted.

    Args:
        name: of the search's folder.
        storage: of the study, which is made if there is none.
        arms: name → overrides, each to be trained on ``search.seeds``; None to propose from ``search.space``.
    """

    def __init__(
        self,
        search: Search,
        experiment: Experiment,
        *,
        name: str,
        storage: BaseStorage,
        arms: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = search
        self._objectives: tuple[Objective, ...] = search.objectives if arms is None else ("miou",)
        self.study = optuna.create_study(
            study_name=find_study(storage, name) or name,
            storage=storage,
            pruner=NopPruner(),
            directions=[_DIRECTIONS[objective] for objective in self._objectives],
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(self._objectives))
        if search.study is not None:
            self.study.set_user_attr(OWNER, place(Storage(experiment.run.storage) / name))
        self._unfinished = [
            trial
            for trial in self.all()
            if trial.state == TrialState.RUNNING and (arms is None or self._asks_for(arms, trial))
        ]
        self._proposes = arms is None
        self._grace_steps = search.grace_steps(experiment.optim.steps)
        self._planned = self._failed() if arms is None else self._plan(arms)
        if arms is None:
            self._own = own_values(experiment, search.space)
            for known in search.known[: search.trials]:
                self.study.enqueue_trial(own_point(search, self._own, known), skip_if_exists=True)

    def all(self) -> list[FrozenTrial]:
        """As ``handed_out``."""
        return handed_out(self.study)

    def next(self) -> Proposal | None:
        """The next run to make, or None when all that were asked for have been handed out."""
        if self._unfinished:
            trial = self._unfinished.pop(0)
            return _proposal(trial) if "run" in trial.user_attrs else self._taken_up(trial.number)
        if self._planned:
            return self._start(self._planned.pop(0))
        return self._propose() if self._proposes else None

    def report(self, number: int, step: int, miou: float) -> bool:
        """Record an evaluation; True if the trial shall be stopped.

        Of a step that is recorded already the decision stays what it was: the run was taken up from a
        checkpoint before it, or its driver died before it stopped the trial.
        """
        if len(self._objectives) > 1:
            return False  # Optuna takes no intermediate values with several objectives
        trial = self._frozen(number)
        if step not in trial.intermediate_values:
            # In this order: a driver that dies in between leaves no evaluation without its decision.
            if self._proposes and self._search.stops_early:
                self._judge(trial, step, miou)
            self._trial(number).report(miou, step)
        return self._frozen(number).system_attrs.get(_STOPPED) == step

    def note(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Attach plain JSON values to a running trial."""
        trial = self._trial(number)
        for key, value in attributes.items():
            trial.set_user_attr(key, value)

    @property
    def remaining(self) -> int:
        """How many runs ``next`` has still to hand out."""
        new = max((self._search.trials or 0) - len(self.all()), 0) if self._proposes else 0
        return len(self._unfinished) + len(self._planned) + new

    def complete(self, number: int, scores: Mapping[Objective, float]) -> None:
        """The run has trained to its last step."""
        self.study.tell(number, [scores[name] for name in self._objectives], TrialState.COMPLETE)

    def prune(self, number: int) -> None:
        """The run was stopped early."""
        self.study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """The run has failed, and is not tried again by this object."""
        self.note(number, {"error": reason})
        self.study.tell(number, state=TrialState.FAIL)

    def _judge(self, trial: FrozenTrial, step: int, miou: float) -> None:
        """Record whether a trial shall be stopped at an evaluation, and the rungs that it has reached."""
        stop, reached = judge(
            trial,
            [other for other in self.all() if other.number != trial.number],
            step=step,
            miou=miou,
            grace_steps=self._grace_steps,
            reduction_factor=self._search.reduction_factor,
        )
        if stop and not self._is_baseline(trial.user_attrs["overrides"]):
            reached = {_STOPPED: step} | reached
        for key, value in reached.items():
            self.study._storage.set_trial_system_attr(trial._trial_id, key, value)

    def _propose(self) -> Proposal | None:
        index = len(self.all())
        if index >= (self._search.trials or 0):
            return None
        self.study.sampler = _sampler(self._search, index)
        return self._filled(self.study.ask(), index)

    def _taken_up(self, number: int) -> Proposal:
        """A trial whose driver died asking, with the values that it would have had."""
        index = [trial.number for trial in self.all()].index(number)
        self.study.sampler = _sampler(self._search, index)
        trial, so_far = self._trial(number), self._frozen(number)  # draws anew what is drawn at once
        known = trial.relative_params.keys() | so_far.system_attrs.get("fixed_params", {}).keys()
        for key, distribution in so_far.distributions.items():
            if key not in known:  # drawn by itself; so is the next one, after it
                self.study.sampler.sample_independent(self.study, so_far, key, distribution)
        return self._filled(trial, index)

    def _filled(self, trial: optuna.Trial, index: int) -> Proposal:
        """A trial with a value for every key, and the run of this index among all."""
        overrides = {key: _suggest(trial, key, dimension) for key, dimension in self._search.space.items()}
        trial.set_user_attr("overrides", overrides)
        if self._is_baseline(overrides):
            trial.set_user_attr("baseline", True)
        trial.set_user_attr("run", f"trial-{index:04}")
        return _proposal(self._frozen(trial.number))

    def _is_baseline(self, overrides: Mapping[str, Any]) -> bool:
        """Whether a trial trains what the experiment itself does."""
        return self._proposes and overrides == self._own

    def _failed(self) -> list[dict[str, Any]]:
        """Values, evaluations, rungs and run of each trial that has failed: what ``_start`` needs."""
        return [
            {
                "params": trial.params,
                "distributions": trial.distributions,
                "intermediate_values": trial.intermediate_values,
                "system_attrs": trial.system_attrs,
                "user_attrs": {key: trial.user_attrs[key] for key in _PROPOSED & trial.user_attrs.keys()},
            }
            for trial in self.all()
            if trial.state == TrialState.FAIL
        ]

    def _asks_for(self, arms: Mapping[str, Mapping[str, Any]], trial: FrozenTrial) -> bool:
        return trial.user_attrs["arm"] in arms and trial.user_attrs["seed"] in self._search.seeds

    def _plan(self, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What ``_start`` needs of every run that is asked for and not there, or has failed, seed by seed."""
        there = {_run_key(trial): trial for trial in self.all()}
        planned = []
        for seed in self._search.seeds:
            for arm, overrides in arms.items():
                found = {"arm": arm, "seed": seed, "overrides": {**overrides, "run.seed": seed}}
                earlier = there.get((arm, seed))
                if earlier is None or earlier.state == TrialState.FAIL:
                    planned.append({"user_attrs": found | {"run": self._run_of(found, earlier)}})
        return planned

    def _run_of(self, arm: Mapping[str, Any], failed: FrozenTrial | None) -> str:
        """The run of an arm and seed: that of the failed trial, unless the arm was corrected since."""
        if failed is None:
            return f"{arm['arm']}-s{arm['seed']}"
        if json.dumps(failed.user_attrs["overrides"]) == json.dumps(arm["overrides"]):
            return failed.user_attrs["run"]
        return f"{arm['arm']}-s{arm['seed']}-{failed.number}"

    def _start(self, planned: dict[str, Any]) -> Proposal:
        self.study.add_trial(create_trial(state=TrialState.RUNNING, **planned))
        return _proposal(self.study.get_trials(deepcopy=False)[-1])

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self._frozen(number)._trial_id)


def find_study(storage: BaseStorage, folder: str) -> str | None:
    """The name of the study of the search in a folder of this name; None while there is none.

    A journal lies in the folder itself: its only study is that of the search, whatever the folder is called.
    """
    names = optuna.get_all_study_names(storage)
    if folder in names:
        return folder
    return names[0] if isinstance(storage, JournalStorage) and len(names) == 1 else None


def handed_out(study: optuna.Study) -> list[FrozenTrial]:
    """The trials but for known points that still wait, by number; of several for one run the last, in the
    first one's place.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    return list({_run_key(trial): trial for trial in trials}.values())


def _run_key(trial: FrozenTrial) -> Hashable:
    """What a trial that follows a failed one has in common with it: the arm and seed, or the run."""
    found = trial.user_attrs
    return (found["arm"], found["seed"]) if "arm" in found else found.get("run", trial.number)


def place(folder: Storage) -> str:
    """Where a search's folder lies, as ``OWNER`` has it: an absolute path or a URI."""
    return os.path.normpath(folder.path()) if folder.is_local else folder.location


def _proposal(trial: FrozenTrial) -> Proposal:
    attributes = trial.user_attrs
    return Proposal(number=trial.number, name=attributes["run"], overrides=dict(attributes["overrides"]))


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    if not isinstance(dimension, Range):
        return trial.suggest_categorical(key, dimension.values)
    if dimension.is_whole:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _sampler(search: Search, index: int) -> BaseSampler:
    """Made anew for every trial: a generator kept in memory would begin again when the search is resumed."""
    seed = (search.seed * 1_000_003 + index) % 2**32
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
