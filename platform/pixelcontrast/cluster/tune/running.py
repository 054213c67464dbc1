"""The trials that run now: between Tune, which runs them, and the study, which records how each one ends."""

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from pixelcontrast import config
from pixelcontrast.cluster.paths import reachable_paths
from pixelcontrast.cluster.signals import Noted
from pixelcontrast.cluster.train.watch import Bounds
from pixelcontrast.cluster.tune.stop_request import StopRequest
from pixelcontrast.config import Experiment
from pixelcontrast.runs.record import read_summary
from pixelcontrast.search.artifacts import attach
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.retrying import cause
from pixelcontrast.search.settings import Search
from pixelcontrast.search.trials import Proposal, Trials
from pixelcontrast.storage import StorageError, one_line

_STOP_S = Bounds().stop_s + 30.0
"""Longest wait for trials that were asked to stop. They give up before that, unless they hang."""

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class SearchListener(Protocol):
    """Hears what happens in a search, in the thread that runs it."""

    def began(self, *, remaining: int, concurrent: int) -> None:
        """Trials are about to start: how many in all, and how many at a time."""

    def started(self, proposal: Proposal) -> None:
        """Tune has been given a trial."""

    def warned(self, proposal: Proposal, text: str) -> None:
        """A trial's workers have logged a warning, of one line."""

    def training(self, proposal: Proposal, step: int, seconds_per_step: float, seconds_left: float) -> None:
        """A trial has trained to a step, and this is how fast, evaluations apart; told soon after a start."""

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None:
        """A trial's network has been evaluated before its last step."""

    def ended(self, proposal: Proposal, state: str, found: Mapping[str, Any]) -> None:
        """A trial is complete, pruned or failed; ``found`` as of ``runs.summary``, with ``error``."""

    def stopped(self, proposal: Proposal, where: str) -> None:
        """A trial was running when the search was stopped; ``where`` is its checkpoint, in words."""


Check = Callable[[Experiment], int | None]
"""Looks at a trial's experiment before it starts: the bytes of the contrast's memory in every worker, or None
if it has finished already; raises ``ValueError`` if it cannot be trained, ``StorageError`` if none can. The
search's driver calls it, as it has imported torch: in every trial's process that would take longer than all
else before the first step."""


class RunningTrials:
    """Knows every running trial by Tune's id and by its number in the study.

    A trial ends in one of three ways: ``report`` records it as complete, failed or pruned; ``died`` records
    it as failed; ``withdraw`` leaves it unfinished, for the next driver to resume.

    Attributes:
        request: to the trials' processes, to stop.
        stopping: no other trial may start, and what does not end by itself stays unfinished.
        failure: what went wrong here, in the study or in the storage, so that the search cannot go on.
    """

    def __init__(
        self,
        experiment: Experiment,
        search: Search,
        folder: SearchFolder,
        trials: Trials,
        listener: SearchListener,
        check: Check,
    ):
        self.request = StopRequest(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
        self.stopping = False
        self.failure: Exception | None = None
        self._experiment, self._search, self.folder = experiment, search, folder
        self.trials, self._listener, self._check = trials, listener, check
        self._proposals: dict[str, Proposal] = {}
        """Running trials by Tune's ids."""

    def propose(self, tune_id: str) -> dict[str, Any] | None:
        """The argument of the next ``run_trial``; None if no other trial shall start."""
        return self._guarded(lambda: self._propose(tune_id), None)

    def report(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Take a report of ``run_trial``; True if Tune shall stop the trial."""
        return self._guarded(lambda: self._report(tune_id, result), False)

    def died(self, tune_id: str) -> None:
        """The trial's process died, and Tune has no retry left."""
        self._guarded(lambda: self._died(tune_id), None)

    def _guarded(self, act: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Note what goes wrong instead of raising it: Tune would end all trials without a checkpoint."""
        try:
            return act()
        except Exception as error:
            logger.debug("the search's driver failed", exc_info=error)
            self.failure, self.stopping = self.failure or error, True
            return otherwise

    def _propose(self, tune_id: str) -> dict[str, Any] | None:
        while not self.stopping and (proposal := self.trials.next()) is not None:
            places = {"run.name": proposal.name, "run.storage": self.folder.storage.location}
            stop = self._catch_up(proposal)
            self._listener.started(proposal)
            try:
                experiment = reachable_paths(config.replace(self._experiment, proposal.overrides | places))
                memory = self._check(experiment)
            except StorageError:  # no other trial could start either
                raise
            except ValueError as error:  # as where each value is allowed, but not together
                self._end(proposal, finished=False, failures=[config.explain(error)])
                continue
            if memory is None:
                self._end(proposal, finished=True, failures=[])
                continue
            if stop:
                self._prune(proposal)
                continue
            self._proposals[tune_id] = proposal
            return {
                "experiment": config.to_json(experiment),
                "memory": memory,
                "max_failures": self._search.max_failures,
                "stop": self.request.name,
                "commit": os.environ.get(config.COMMIT_VARIABLE),
            }
        return None

    def _report(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        proposal = self._proposals[tune_id]
        if "waiting" in result:
            logger.warning("%s waits for a place: %s", proposal.name, result["waiting"])
            return False
        if "warning" in result:
            self._listener.warned(proposal, result["warning"])
            return False
        if "seconds_left" in result:
            self._listener.training(
                proposal, result["step"], result["seconds_per_step"], result["seconds_left"]
            )
            return False
        if "finished" in result:
            del self._proposals[tune_id]
            self._end(proposal, finished=result["finished"], failures=result["failures"])
            return False
        if "stopped" in result:
            self.withdraw(tune_id)
            self._try(self.folder.sync, None)
            self._listener.stopped(proposal, result["stopped"])
            return False
        self._listener.evaluated(proposal, result["step"], result["miou"])
        if not self.trials.report(proposal.number, result["step"], result["miou"]):
            return False
        del self._proposals[tune_id]
        self._prune(proposal)
        return True

    def _died(self, tune_id: str) -> None:
        if self.stopping:
            self.withdraw(tune_id)
        if tune_id in self._proposals:
            proposal = self._proposals.pop(tune_id)
            self._end(proposal, finished=False, failures=["the trial's process died"])

    def withdraw(self, tune_id: str) -> None:
        """The trial runs no more; the study keeps it as running, for the next driver to resume."""
        self._proposals.pop(tune_id, None)

    def stop(self, number: int) -> None:
        """Ask all running trials to stop, as by this signal."""
        self.stopping = True
        self.request.ask(number)

    @property
    def all_ended(self) -> bool:
        """Whether no trial runs or waits to."""
        return not self._proposals

    def _catch_up(self, proposal: Proposal) -> bool:
        """Record the evaluations of a resumed run that its dead driver did not; True if they are a reason to
        stop it before its last step.
        """
        stops = [
            self.trials.report(proposal.number, row["step"], row["miou"]) and row["step"] < row["steps"]
            for row in self.folder.evaluations(proposal.name)
        ]
        return any(stops)

    def _prune(self, proposal: Proposal) -> None:
        found = self._note(proposal, {})
        self.trials.prune(proposal.number)
        self._tell("pruned", proposal, found)

    def _end(self, proposal: Proposal, *, finished: bool, failures: list[str]) -> None:
        found = self._note(proposal, {"failures": failures} if failures else {})
        self._catch_up(proposal)
        if finished:
            scores = {"miou": found["last_miou"], "seconds_per_step": found["seconds_per_step"]}
            self.trials.complete(proposal.number, scores)  # type: ignore[arg-type]
            self._tell("complete", proposal, found)
        else:
            self.trials.fail(proposal.number, failures[-1])
            self._tell("failed", proposal, {**found, "error": failures[-1]})

    def _note(self, proposal: Proposal, more: dict[str, Any]) -> dict[str, Any]:
        found = read_summary(self.folder.run(proposal.name)) | more
        self.trials.note(proposal.number, found)
        self._try(lambda: attach(self.trials.study, proposal.number, self.folder), None)
        return found

    def _tell(self, state: str, proposal: Proposal, found: dict[str, Any]) -> None:
        self._try(self.folder.sync, None)
        self._listener.ended(proposal, state, found)

    def _try(self, act: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Do what the search can do without: the next trial's end copies the study again."""
        try:
            return act()
        except Exception as error:
            logger.warning("%s; the search goes on without", describe_failure(error))
            return otherwise


def describe_failure(error: Exception) -> str:
    """One line: of a file or folder what is wrong with it, of another error its cause."""
    if isinstance(error, StorageError):
        return str(error)
    return one_line(error) if isinstance(error, OSError) else cause(error)


class Deadline:
    """When a search that a signal or a failure has stopped ends: after its trials, but not later than
    ``_STOP_S``."""

    def __init__(self, running: RunningTrials, noted: Noted):
        self._running, self._noted = running, noted
        self._asked_at: float | None = None

    def reached(self) -> bool:
        """Whether the wait is over; the first call after the signal asks the trials to stop."""
        if self._noted.signal is None and self._running.failure is None:
            return False
        if self._asked_at is None:
            reason, again = "", " again"
            if self._running.failure is not None:
                reason, again = (
                    f"The search cannot go on: {describe_failure(self._running.failure)}. ",
                    " twice",
                )
            logger.warning(
                "%sStopping all trials with a checkpoint. Press Ctrl-C or send SIGTERM%s to stop without.",
                reason,
                again,
            )
            self._asked_at = time.monotonic()
            self._running.stop(self._noted.signal or signal.SIGTERM)
        return self._running.all_ended or time.monotonic() - self._asked_at > _STOP_S
