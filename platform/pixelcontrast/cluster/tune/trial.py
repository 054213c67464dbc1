"""A trial of a search, as Tune runs it: one training, from its newest checkpoint to its end."""

import logging
from collections.abc import Callable
from typing import Any

from pixelcontrast import config
from pixelcontrast.cluster.environment import environment
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.signals import Interrupted
from pixelcontrast.cluster.train.launch import launch
from pixelcontrast.cluster.train.worker import Row
from pixelcontrast.cluster.tune.stop_request import StopRequest

MEMORY = 50 * 2**20
"""What Tune reserves for a trial's own process, in bytes; the training's workers reserve the rest."""

logger = logging.getLogger(__name__)


def run_trial(trial: dict[str, Any]) -> None:
    """Train; every evaluation goes to Tune as ``step`` and ``miou``, at last ``finished`` and ``failures``.

    A training that fails is started again as long as that may help, and goes on from its checkpoint. One that
    the search's driver asks to stop goes to Tune as ``stopped``, which says where its checkpoint is.

    Args:
        trial: ``experiment``, as JSON, with its own name and storage; ``max_failures``; ``stop``, the
            name of the search's ``StopRequest``; ``commit``, of the search's driver: what is set there with a
            job's command does not reach this process.
    """
    from ray import tune

    try:
        result = _train(trial)
    except Interrupted as stop:
        result = {"stopped": stop.message}
    tune.report(result)


def _train(trial: dict[str, Any]) -> dict[str, Any]:
    """As ``run_trial``, but for the last report, which it returns."""
    from ray import tune

    experiment, request = config.from_json(trial["experiment"]), StopRequest(trial["stop"])

    def report(row: Row) -> None:
        if row["kind"] == "eval" and row["step"] < experiment.optim.steps:
            tune.report({"step": row["step"], "miou": row["miou"]})

    failures: list[str] = []
    finished = False
    while not finished and len(failures) <= trial["max_failures"]:
        with environment({config.COMMIT_VARIABLE: trial["commit"]}):
            reason, final = _attempt(experiment, report, request.signal)
        finished = reason is None
        if reason is not None:
            logger.warning("%s failed: %s", experiment.run.name, reason)
            failures.append(reason)
            if final:
                break
    return {"step": experiment.optim.steps, "finished": finished, "failures": failures}


def _attempt(
    experiment: config.Experiment, report: Any, stopped_by: Callable[[], int | None]
) -> tuple[str | None, bool]:
    """What went wrong, if anything, and whether the same would happen again."""
    from pixelcontrast import training

    try:
        if training.check(experiment) is None:
            launch(experiment, on_row=report, stopped_by=stopped_by)
    except ValueError as error:
        return str(error), True
    except LaunchError as error:
        if not error.final and (number := stopped_by()) is not None:  # the next driver tries again
            raise Interrupted(number, f" without a new checkpoint: {error}") from error
        return str(error), error.final
    return None, False
