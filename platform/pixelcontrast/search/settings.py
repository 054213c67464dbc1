"""What is searched, and how: never part of a trial's own configuration."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from pixelcontrast import config
from pixelcontrast.config import PLACEMENT, Count, Experiment

Objective = Literal["miou", "seconds_per_step"]
_STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_OWN_KEYS = PLACEMENT | {"run.seed", "data.layout"}
"""What a search sets itself, or what does not decide how well a network learns."""

_TIMED = ("run.workers", "run.device", "run.cpus_per_worker", "run.gpus_per_worker", "run.compile")


@plain_dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a range needs low < high, not {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range on a logarithmic scale needs low > 0, not {self.low}")

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must be allowed if all between them are to be."""
        return self.low, self.high

    def __contains__(self, value: Any) -> bool:
        kinds = int if self.is_whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", logarithmic" if self.log else "")


@plain_dataclass(frozen=True)
class Choice:
    """One of some values: numbers, strings, booleans or None."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(f"a choice needs two or more different values, not {self.values}")
        for value in self.values:
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"a choice is among numbers, strings, booleans or None, not {value!r}")

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Dimension = Range | Choice


def uniform(low: float, high: float) -> Range:
    """Real numbers, each equally likely at first."""
    return Range(float(low), float(high))


def loguniform(low: float, high: float) -> Range:
    """Real numbers, their logarithms equally likely at first."""
    return Range(float(low), float(high), log=True)


def integers(low: int, high: int, *, log: bool = False) -> Range:
    """Whole numbers from ``low`` to ``high``, both included."""
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"integers needs two whole numbers, not {low!r} and {high!r}")
    return Range(low, high, log)


def choice(*values: Any) -> Choice:
    """One of the values, without order."""
    return Choice(values)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Search:
    """A search over settings, or a study of named ones; each trial is a full run in the search's folder."""

    space: Mapping[str, Dimension] = Field(default_factory=dict)
    """Dotted key of the experiment → ``uniform``, ``loguniform``, ``integers`` or ``choice``."""
    known: tuple[Mapping[str, Any], ...] = ({},)
    """Points to try first; a key that one leaves out has the experiment's own value. The trial that
    has all of the experiment's own values is the baseline: the others are compared with it, and it is never
    stopped early."""
    arms: Mapping[_Name, Mapping[str, Any]] = Field(default_factory=dict)
    """Name → settings by dotted key, to compare on the same seeds; differences are to the first."""
    trials: Count | None = None
    """Number of trials, those that have ended included; asking for more later adds trials."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0, 1, 2)
    """Seeds on which every arm is trained."""
    name: _Name | None = None
    """Folder in run.storage; unset: <run.name>-search, or <run.name>-arms. The same name resumes it."""
    objectives: tuple[Objective, ...] = ("miou",)
    """miou (maximized), seconds_per_step (minimized), or both; with both, no trial is stopped early."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: Optuna's TPE, once five trials have ended; the first are random."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the sampler."""
    early_stopping: Literal["asha", "none"] = "asha"
    """asha: successive halving on mIoU at the evaluations (Li et al., arXiv 1810.05934)."""
    grace: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the steps before early stopping may begin; early ranks mislead (experiments/benchmarks)."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """At the end of the grace, and each time trials have trained this many times longer, the best 1 in this
    many continue."""
    max_concurrent: Count | None = None
    """Trials that run at the same time; unset: as many as fit on the cluster."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Retries of a failed trial; none where a retry would fail in the same way."""
    study: str | None = None
    """Database of the Optuna study (sqlite:////abs/path.db, postgresql://…); unset: a file in the folder."""

    @field_validator("objectives", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values or len(set(values)) < len(values):
            raise ValueError("one or more different values are needed")
        return values

    def grace_steps(self, steps: int) -> int:
        """Steps before early stopping may begin, of a training of ``steps``."""
        return max(round(self.grace * steps), 1)

    @property
    def stops_early(self) -> bool:
        return self.early_stopping == "asha" and self.objectives == ("miou",)


def check_space(search: Search, experiment: Experiment) -> None:
    """Look at the space and the known points before anything starts.

    Raises:
        ValueError: an unknown key, one that a search cannot change, or a value that its field does not allow;
            one line per mistake.
    """
    if not search.space:
        raise ValueError("search.space is empty: the experiment's file names no setting to search")
    mistakes = []
    for key, dimension in search.space.items():
        mistakes += _refused_key(f"search.space: {key}", key)
        for value in dimension.ends:
            mistakes += _refused(f"search.space: {key} ({dimension})", experiment, {key: value})
    for number, point in enumerate(search.known):
        where = f"search.known[{number}]"
        for key, value in point.items():
            if key not in search.space:
                mistakes.append(f"{where}: {key} is not in the space: {', '.join(search.space)}")
            elif value not in search.space[key]:
                mistakes.append(f"{where}: {key} is {value!r}, and the space has {search.space[key]}")
    _raise(mistakes)


def arms_of(search: Search, experiment: Experiment, names: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The arms called ``names``, or all, in the file's order.

    Raises:
        ValueError: an unknown name, an arm that cannot be trained, or two that train the same.
    """
    if not search.arms:
        raise ValueError("search.arms is empty: the experiment's file names no arms to compare")
    mistakes = [
        f"there is no arm {name}; the experiment's file has {', '.join(search.arms)}"
        for name in names
        if name not in search.arms
    ]
    chosen = {name: dict(arm) for name, arm in search.arms.items() if not names or name in names}
    seen: dict[str, str] = {}
    for name, overrides in chosen.items():
        wrong = [line for key in overrides for line in _refused_key(f"search.arms: {name}: {key}", key)]
        wrong += _refused(f"search.arms: {name}", experiment, overrides)
        mistakes += wrong
        if not wrong:
            tree = config.to_json(config.replace(experiment, overrides))
            if tree in seen:
                mistakes.append(f"search.arms: {name} and {seen[tree]} are the same configuration")
            seen[tree] = name
    _raise(mistakes)
    return chosen


def describe(search: Search) -> dict[str, Any]:
    """What decides the search's proposals and judgements, as JSON values by key."""
    space = {key: asdict(dimension) for key, dimension in search.space.items()}
    fixed = {
        key: getattr(search, key)
        for key in ("objectives", "sampler", "seed", "early_stopping", "grace", "reduction_factor", "study")
    }
    return json.loads(pydantic_core.to_json({"space": space, "known": search.known, **fixed}))


def deciding_placement(search: Search) -> tuple[str, ...]:
    """Keys of the experiment that decide nothing that is learnt, but something in this search: how long a
    step takes, or when trials are compared.
    """
    timed = _TIMED if "seconds_per_step" in search.objectives else ()
    return (*timed, "run.eval_interval") if search.stops_early else timed


def _refused_key(where: str, key: str) -> list[str]:
    if key in _OWN_KEYS:
        return [f"{where} is set by the search or decides nothing that is learnt; search another key"]
    return []


def _refused(where: str, experiment: Experiment, overrides: Mapping[str, Any]) -> list[str]:
    try:
        config.replace(experiment, overrides)
    except ValueError as error:
        return [f"{where}: {line}" for line in config.explain(error).splitlines()]
    return []


def _raise(mistakes: list[str]) -> None:
    if mistakes:
        raise ValueError("\n".join(dict.fromkeys(mistakes)))
