"""How much each searched setting decides the result, and how sure that is."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

RESAMPLES = 100
FEWEST = 6
"""Complete trials below which nothing can be said."""
TOP_SHARE = 0.25
"""Share of the trials that count as the best."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Share of a setting in deciding whether a trial is among the best; all settings' sum to 1."""

    key: str
    mean: float
    low: float
    high: float
    """2.5th and 97.5th percentile over the resamples."""


def importances(trials: Sequence[FrozenTrial], *, maximize: bool) -> list[Importance]:
    """PED-ANOVA (Watanabe et al., IJCAI 2023) on the first objective, over bootstrap resamples.

    Args:
        trials: complete ones, at least ``FEWEST``.
        maximize: whether more of the objective is better.

    Returns:
        The most important first; of settings that every trial has.
    """
    assert len(trials) >= FEWEST
    keys = [key for key in trials[0].params if all(key in trial.params for trial in trials)]
    generator = random.Random(0)  # the same report for the same trials
    drawn: dict[str, list[float]] = {key: [] for key in keys}
    for _ in range(RESAMPLES):
        for key, share in _shares(generator.choices(trials, k=len(trials)), keys, maximize=maximize).items():
            drawn[key].append(share)
    found = [_summary(key, shares) for key, shares in drawn.items()]
    return sorted(found, key=lambda importance: -importance.mean)


def _shares(trials: Sequence[FrozenTrial], keys: list[str], *, maximize: bool) -> dict[str, float]:
    direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
    study = optuna.create_study(direction=direction)
    study.add_trials(
        [
            create_trial(value=trial.values[0], params=trial.params, distributions=trial.distributions)
            for trial in trials
        ]
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE)
    return get_param_importances(study, evaluator=evaluator, params=keys)


def _summary(key: str, shares: list[float]) -> Importance:
    cuts = statistics.quantiles(shares, n=40, method="inclusive")
    return Importance(key=key, mean=statistics.fmean(shares), low=cuts[0], high=cuts[-1])
