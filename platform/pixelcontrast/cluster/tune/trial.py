"""One trial of a search, in a process of Tune's: one training, resumed from its newest checkpoint.

The process only waits for the training's workers, so it does not import torch.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pixelcontrast import config
from pixelcontrast.cluster.environment import environment
from pixelcontrast.cluster.errors import LaunchError, NoPlaceError, ended
from pixelcontrast.cluster.signals import Interrupted
from pixelcontrast.cluster.train.events import Message, Row
from pixelcontrast.cluster.train.launch import launch
from pixelcontrast.cluster.tune.stop_request import StopRequest
from pixelcontrast.runs.lock import AlreadyRunning
from pixelcontrast.runs.run_folder import open_storage, read_result

MEMORY = 200 * 2**20
"""What Tune reserves for a trial's own process, in bytes, about what it takes; all are on the driver's node.
The training's workers reserve the rest."""

_PAUSE_S = 10.0
"""Between two attempts to get a place, where the cluster has too few nodes for any."""

_MOST_ALIKE = 5
"""Warnings passed on that differ in their values only: of many unreadable images each has one."""

logger = logging.getLogger(__name__)


def run_trial(trial: dict[str, Any]) -> None:
    """Train, and report to Tune: ``step`` and ``miou`` of every evaluation, then how the trial ends.

    In between it reports every ``warning`` of the workers once, at most ``_MOST_ALIKE`` that differ in their
    values; and how fast they train, after ``step``: ``seconds_per_step`` and ``seconds_left``.

    The last report has ``finished`` and ``failures``; if the search's driver asked the trial to stop, it has
    ``stopped`` instead, which says where the checkpoint is. A training that fails is retried as long as that
    may help, and resumes from its checkpoint. One that gets no place waits on, which counts as no failure;
    ``waiting`` then says for what.

    Args:
        trial: ``experiment``, as JSON, with its own name and storage, checked; ``memory``, as of ``launch``;
            ``max_failures``; ``stop``, the name of the search's ``StopRequest``; ``commit``, of the search's
            driver, whose environment does not reach this process.
    """
    from ray import tune

    try:
        result = _train(trial)
    except Interrupted as stop:
        result = {"stopped": stop.message}
    tune.report(result)


def _train(trial: dict[str, Any]) -> dict[str, Any]:
    """Train with retries, and report the evaluations; returns the last report."""
    experiment, request = config.from_json(trial["experiment"]), StopRequest(trial["stop"])
    reports = _Reports(experiment)
    failures: list[str] = []
    finished = False
    while not finished and len(failures) <= trial["max_failures"]:
        with environment({config.COMMIT_VARIABLE: trial["commit"]}):
            reason, final = _attempt(experiment, trial["memory"], reports, request.signal)
        finished = reason is None
        if reason is not None:
            logger.warning("%s failed: %s", experiment.run.name, reason)
            failures.append(reason)
            if final:
                break
    return {"step": experiment.optim.steps, "finished": finished, "failures": failures}


def _attempt(
    experiment: config.Experiment, memory: int, reports: "_Reports", stopped_by: Callable[[], int | None]
) -> tuple[str | None, bool]:
    """Run one attempt; returns what went wrong, if anything, and whether a retry would fail likewise."""
    from ray.exceptions import RayError

    try:
        if read_result(open_storage(experiment)) is None:  # as it is if this process follows one that died
            _launch_when_placed(experiment, memory, reports, stopped_by)
    except (ValueError, LaunchError, RayError) as error:
        failure = error if isinstance(error, ValueError | LaunchError) else ended("Ray failed", error)
        final = failure.final if isinstance(failure, LaunchError) else not isinstance(failure, AlreadyRunning)
        if not final and (number := stopped_by()) is not None:  # the next driver retries
            raise Interrupted(number, f" without a new checkpoint: {failure}") from error
        return str(failure), final
    return None, False


def _launch_when_placed(
    experiment: config.Experiment, memory: int, reports: "_Reports", stopped_by: Callable[[], int | None]
) -> None:
    """``launch``, again and again as long as there is no place."""
    told = None
    while True:
        try:
            return launch(
                experiment,
                on_row=reports.row,
                on_message=reports.message,
                memory=memory,
                stopped_by=stopped_by,
            )
        except NoPlaceError as error:
            if (reason := str(error)) != told:
                reports.send({"waiting": reason})
            told = reason
        until = time.monotonic() + _PAUSE_S
        while time.monotonic() < until:
            if (number := stopped_by()) is not None:
                raise Interrupted(number)
            time.sleep(0.5)


class _Reports:
    """What a trial tells Tune while it trains."""

    def __init__(self, experiment: config.Experiment):
        self._optim = experiment.optim
        self._rows: Counter[int] = Counter()
        """Training rows of each attempt."""
        self._timed = False
        self._warned: dict[str, set[str]] = {}
        """Warnings, by what they have in common."""

    def send(self, report: dict[str, Any]) -> None:
        from ray import tune

        tune.report(report)

    def row(self, row: Row) -> None:
        step, steps = row["step"], self._optim.steps
        if row["kind"] == "eval":
            if step < steps:
                self.send({"step": step, "miou": row["miou"]})
            return
        self._rows[row["attempt"]] += 1
        in_step = self._rows[row["attempt"]] > 1  # in an attempt's first one the workers got ready
        if in_step and step < steps and not self._timed:
            self._timed = True
            seconds = self._optim.batch_size / row["images_per_second"]
            self.send({"step": step, "seconds_per_step": seconds, "seconds_left": (steps - step) * seconds})

    def message(self, message: Message) -> None:
        alike = self._warned.setdefault(message.template, set())
        if message.level < logging.WARNING or message.text in alike or len(alike) == _MOST_ALIKE:
            return
        alike.add(message.text)
        text = message.text if message.rank == 0 else f"worker {message.rank}: {message.text}"
        more = " (the last of its kind that is shown)" if len(alike) == _MOST_ALIKE else ""
        self.send({"warning": text + more})
