"""Arms against one another: means over seeds, and differences to the first arm on the same seeds."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95
"""How often an interval made this way holds the true mean difference, if differences are normal."""


FEWEST_SEEDS = 3
"""Seeds below which no interval is given: with two it is 3.6 times as wide as with three of the same spread,
and holds nearly every difference that an IoU can have."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm minus the first arm, over the seeds that both have finished."""

    mean: float
    interval: tuple[float, float] | None
    """Student's t interval of the mean difference; None with fewer than ``FEWEST_SEEDS``."""
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What an arm came to, in the unit of the scores."""

    name: str
    scores: Mapping[int, float]
    """Seed → score, of the seeds that are finished."""
    mean: float | None
    """None while no seed is finished."""
    std: float | None
    """Standard deviation of the sample (n − 1); None with fewer than two seeds."""
    difference: Difference | None
    """None of the first arm itself, and where it shares no finished seed with this one."""


def compare(scores: Mapping[str, Mapping[int, float]]) -> list[ArmResult]:
    """Compare arms, each to the first.

    A seed gives every arm the same start, order of images and augmentation, so the difference is taken seed
    by seed: what one seed makes easier for all arms drops out. Intervals are of each comparison alone, not
    corrected for their number.

    Args:
        scores: arm → seed → score; a seed that an arm has not finished is missing.
    """
    names = list(scores)
    return [
        ArmResult(
            name=name,
            scores=dict(scores[name]),
            mean=statistics.fmean(scores[name].values()) if scores[name] else None,
            std=statistics.stdev(scores[name].values()) if len(scores[name]) > 1 else None,
            difference=None if name == names[0] else paired_difference(scores[name], scores[names[0]]),
        )
        for name in names
    ]


def paired_difference(scores: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """The mean of ``scores − reference`` over the seeds in both; None if there is none."""
    pairs = [scores[seed] - reference[seed] for seed in scores if seed in reference]
    if not pairs:
        return None
    mean = statistics.fmean(pairs)
    return Difference(mean=mean, interval=_interval(pairs, mean), num_seeds=len(pairs))


def _interval(values: list[float], mean: float) -> tuple[float, float] | None:
    if len(values) < FEWEST_SEEDS:
        return None
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, df=len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half
