"""Asynchronous successive halving (Li et al., arXiv 1810.05934): which trials are stopped early.

The rule and its record in the study are those of Optuna's ``SuccessiveHalvingPruner``, which is not used: it
counts a run twice that has failed and was tried again.
"""

from collections.abc import Sequence
from itertools import count

from optuna.trial import FrozenTrial


def judge(
    trial: FrozenTrial,
    others: Sequence[FrozenTrial],
    *,
    step: int,
    miou: float,
    grace_steps: int,
    reduction_factor: int,
) -> tuple[bool, dict[str, float]]:
    """Compare a trial with the others at each rung that it reaches by an evaluation.

    Rung k is at step grace_steps · reduction_factorᵏ. A trial continues if it is among the best 1 in
    ``reduction_factor`` of those that have come to the rung so far, or the best of fewer.

    Args:
        trial: as it was before the evaluation.
        others: one trial for each other run.

    Returns:
        Whether the trial shall be stopped, and the mIoU to record by system attribute, one for each rung.
    """
    reached: dict[str, float] = {}
    rung = next(rung for rung in count() if _key(rung) not in trial.system_attrs)
    while step >= grace_steps * reduction_factor**rung:
        key = _key(rung)
        reached[key] = miou
        scores = [other.system_attrs[key] for other in others if key in other.system_attrs]
        scores = sorted([*scores, miou], reverse=True)
        if miou < scores[max(len(scores) // reduction_factor, 1) - 1]:
            return True, reached
        rung += 1
    return False, reached


def _key(rung: int) -> str:
    return f"completed_rung_{rung}"
