"""A watch over the embedding in training: reports once what is wrong, and which settings to change."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pixelcontrast.config import Experiment
from pixelcontrast.runs.run_folder import Row
from pixelcontrast.training.contrast import warmup_steps

STREAK = 3
"""Consecutive reports that must show a cause: a report averages few batches, so one alone may be chance."""
COLLAPSED_NORM = 0.9
"""Mean embedding norm; at 1 all embeddings are equal. Collapsed runs were measured near 1 (cosines of 0.97),
those that separate the classes at 0.73 to 0.86 and below."""
YOUNG = 20
"""Steps after the warm-up. Embeddings start alike, which is no collapse yet: a run of a dozen steps had a
norm of 0.92 at its 11th."""
STALE_AGE = 100
"""Steps. The evidence for a stale memory is its gap; below this mean age the age is hardly the reason."""
MOST_REMEDIES = 3
"""Settings named in one line, those with the best evidence first."""

_HARD = frozenset({"hardest", "semi-hard", "semi-hard-subset"})


class _Cause(NamedTuple):
    shows: Callable[[Row], bool | None]
    """Whether a training row shows it; None where the row lacks a value that decides it."""
    describe: Callable[[Row], str]
    remedies: tuple[str, ...]
    """Keys of ``_changes`` that help, the best first."""
    streak: int = STREAK
    """Consecutive reports that must show it."""
    when_young: bool = False
    """Whether it counts in the first steps after the warm-up, too."""


class EmbeddingWatch:
    """Reads every training row and warns at most once per cause and run.

    Its state follows from the rows alone, so a resumed run needs no other: ``earlier`` are the rows of the
    run so far. The same rows give the same warnings on every rank.
    """

    def __init__(self, experiment: Experiment, earlier: Iterable[Row] = ()):
        self._experiment = experiment
        self._begin = warmup_steps(experiment)
        self._last_step = 0
        self._streaks = dict.fromkeys(_CAUSES, 0)
        self._warned: set[str] = set()
        for row in earlier:
            if row["kind"] == "train":
                self._count(row)
                self._warned |= row.get("warnings", {}).keys()

    def look(self, row: Row) -> dict[str, str]:
        """The warnings that a new training row gives rise to: cause → one line."""
        self._count(row)
        due = {
            name: cause
            for name, cause in _CAUSES.items()
            if self._streaks[name] >= cause.streak and name not in self._warned
        }
        self._warned |= due.keys()
        return {name: self._line(cause, row) for name, cause in due.items()}

    def _count(self, row: Row) -> None:
        """Rows that reach into the first steps or lack the values neither count nor end a streak."""
        for name, cause in _CAUSES.items():
            counts = self._last_step >= self._begin + (0 if cause.when_young else YOUNG)
            shown = cause.shows(row) if counts else None
            if shown is not None:
                self._streaks[name] = self._streaks[name] + 1 if shown else 0
        self._last_step = row["step"]

    def _line(self, cause: _Cause, row: Row) -> str:
        changes = _changes(self._experiment)
        *others, last = [changes[key] for key in cause.remedies if key in changes][:MOST_REMEDIES]
        choices = f"{', '.join(others)} or {last}" if others else last
        return f"{cause.describe(row)}. In a new run, try {choices}."


def _changes(experiment: Experiment) -> dict[str, str]:
    """Setting → the value to try, of those that this run does not have already."""
    settings, optim = experiment.contrast, experiment.optim
    found = {
        "weight": f"contrast.weight below {settings.weight:g}",
        "lr": f"optim.lr below {optim.lr:g}",
    }
    if optim.clip_norm is None:
        found["clip_norm"] = "optim.clip_norm 1"
    if experiment.run.precision != "float32":
        found["precision"] = "run.precision float32"
    if settings.warmup < 0.5:
        found["warmup"] = f"contrast.warmup above {settings.warmup:g}"
    if settings.memory == "none" or not settings.uses_memory:
        return found
    for key in ("positive_mining", "negative_mining"):
        if getattr(settings, key) in _HARD:
            found[key] = f"contrast.{key} random"
    if settings.memory_term == "joint":
        found["memory_term"] = "contrast.memory_term separate"
    else:
        found["memory_weight"] = f"contrast.memory_weight below {settings.memory_weight:g}"
    if settings.memory_max_age is None or settings.memory_max_age > STALE_AGE:
        found["memory_max_age"] = f"contrast.memory_max_age {STALE_AGE}"
    return found


def _memory_gap(row: Row) -> float | None:
    positive, negative = row.get("memory_positive_similarity"), row.get("memory_negative_similarity")
    return None if positive is None or negative is None else positive - negative


def _is_inverted(row: Row) -> bool | None:
    return None if row.get("gap") is None else row["gap"] < 0


def _is_collapsed(row: Row) -> bool | None:
    norm = row.get("mean_embedding_norm")
    return None if norm is None else norm > COLLAPSED_NORM


def _is_stale(row: Row) -> bool | None:
    """The batch's classes are apart and the memory's are not, so it is the memory that is wrong."""
    gap, age = _memory_gap(row), row.get("memory_age")
    if gap is None or age is None or row.get("gap") is None:
        return None
    return gap <= 0 < row["gap"] and age > STALE_AGE


def _has_refused(row: Row) -> bool | None:
    refused = row.get("refused_rows")
    return None if refused is None else refused > 0


def _describe_inverted(row: Row) -> str:
    return (
        f"the contrast does not separate the classes: for {STREAK} reports embeddings are less similar to "
        f"their own class than to others (gap {row['gap']:.3f} at step {row['step']})"
    )


def _describe_collapsed(row: Row) -> str:
    return (
        f"the embedding has collapsed: for {STREAK} reports the mean embedding norm is above "
        f"{COLLAPSED_NORM:g} ({row['mean_embedding_norm']:.3f} at step {row['step']}; at 1 all embeddings "
        "are equal)"
    )


def _describe_stale(row: Row) -> str:
    return (
        f"the memory is stale: for {STREAK} reports embeddings are no more similar to its rows of their own "
        f"class than to others, unlike in the batch (its rows are {row['memory_age']:.0f} steps old on "
        f"average at step {row['step']})"
    )


def _describe_refused(row: Row) -> str:
    return (
        f"the memory refused {row['refused_rows']:,} rows up to step {row['step']}, whose embeddings are "
        "not finite (inf or nan)"
    )


_CAUSES = {
    "collapsed": _Cause(
        _is_collapsed,
        _describe_collapsed,
        ("positive_mining", "negative_mining", "memory_term", "warmup", "weight"),
    ),
    "inverted_gap": _Cause(
        _is_inverted,
        _describe_inverted,
        (
            *("positive_mining", "negative_mining", "memory_term", "memory_max_age"),
            *("warmup", "weight"),
        ),
    ),
    "stale_memory": _Cause(
        _is_stale,
        _describe_stale,
        ("memory_max_age", "memory_term", "memory_weight", "weight"),
    ),
    "refused_rows": _Cause(
        _has_refused,
        _describe_refused,
        ("precision", "lr", "clip_norm"),
        streak=1,
        when_young=True,
    ),
}
"""In the order in which they are reported."""
