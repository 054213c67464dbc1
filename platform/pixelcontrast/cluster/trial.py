"""A trial of a search, as Tune runs it: one training, from its newest checkpoint to its end."""

import logging
from typing import Any

from pixelcontrast import config
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.launch import launch
from pixelcontrast.cluster.settings import environment
from pixelcontrast.cluster.worker import Row

MEMORY = 50 * 2**20
"""What Tune reserves for a trial's own process, in bytes; the training's workers reserve the rest."""

logger = logging.getLogger(__name__)


def run_trial(trial: dict[str, Any]) -> None:
    """Train; every evaluation goes to Tune as ``step`` and ``miou``, at last ``finished`` and ``failures``.

    A training that fails is started again as long as that may help, and goes on from its checkpoint.

    Args:
        trial: ``experiment``, as JSON, with its own name and storage; ``max_failures``; ``commit``, of the
            search's driver: what is set there with a job's command does not reach this process.
    """
    from ray import tune

    experiment = config.from_json(trial["experiment"])

    def report(row: Row) -> None:
        if row["kind"] == "eval" and row["step"] < experiment.optim.steps:
            tune.report({"step": row["step"], "miou": row["miou"]})

    failures: list[str] = []
    finished = False
    while not finished and len(failures) <= trial["max_failures"]:
        with environment({"PIXELCONTRAST_COMMIT": trial["commit"]}):
            reason, final = _attempt(experiment, report)
        finished = reason is None
        if reason is not None:
            logger.warning("%s failed: %s", experiment.run.name, reason)
            failures.append(reason)
            if final:
                break
    tune.report({"step": experiment.optim.steps, "finished": finished, "failures": failures})


def _attempt(experiment: config.Experiment, report: Any) -> tuple[str | None, bool]:
    """What went wrong, if anything, and whether the same would happen again."""
    from pixelcontrast import training

    try:
        if training.check(experiment) is None:
            launch(experiment, on_row=report)
    except ValueError as error:
        return str(error), True
    except LaunchError as error:
        return str(error), error.final
    return None, False
