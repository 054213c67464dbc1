"""A search on Ray: Tune runs the trials, each a whole training, side by side as far as the cluster reaches.

Tune is given no state to keep. What was proposed, reported and decided stands in the Optuna study, and what
was trained in the runs' folders, so a search goes on from there after any death of its driver.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from pixelcontrast import config
from pixelcontrast.cluster.connect import Connection, connect
from pixelcontrast.cluster.environment import environment
from pixelcontrast.cluster.paths import absolute_paths
from pixelcontrast.cluster.placement import concurrency
from pixelcontrast.cluster.signals import Interrupted, Noted, signals_noted
from pixelcontrast.cluster.train.watch import Bounds
from pixelcontrast.cluster.tune.stop_request import StopRequest
from pixelcontrast.config import Experiment
from pixelcontrast.search.artifacts import attach
from pixelcontrast.search.folder import Arms, SearchFolder
from pixelcontrast.search.settings import Search
from pixelcontrast.search.summary import summarize
from pixelcontrast.search.trials import Proposal, Trials

_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs' folders have it all
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
_STOP_S = Bounds().stop_s + 30.0
"""Longest wait for trials that were asked to stop. They give up by themselves before, unless they hang."""

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """What a search tells while it runs, in the thread that runs it."""

    def began(self, *, remaining: int, concurrent: int) -> None:
        """Trials are about to start: so many in all, and at a time."""

    def started(self, proposal: Proposal) -> None:
        """A trial has been handed to Tune."""

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None:
        """A trial's network has been evaluated before its last step."""

    def ended(self, proposal: Proposal, state: str, found: Mapping[str, Any]) -> None:
        """A trial is complete, pruned or failed; ``found`` as of ``search.summary``, with ``error``."""

    def stopped(self, proposal: Proposal, where: str) -> None:
        """A trial was running when the search was stopped; ``where`` is its checkpoint, in words."""


def run_search(
    experiment: Experiment, search: Search, *, arms: Arms | None = None, progress: Progress
) -> SearchFolder:
    """Run all trials that are asked for and not there yet; returns when every one has ended.

    On the first Ctrl-C or SIGTERM the trainings write a checkpoint and end, and ``Interrupted`` is raised;
    the same call goes on from there. The second one ends them at once.

    Args:
        arms: compare these on ``search.seeds``; None searches ``search.space`` with ``search.trials``.

    Raises:
        ValueError: another search has this name, or this one is running already.
        LaunchError: no trial fits on the cluster, or it cannot be reached.
    """
    experiment = absolute_paths(experiment)
    run = experiment.run
    folder = SearchFolder(experiment, search, arms)
    folder.check()
    with folder.held() as storage:
        trials = Trials(search, experiment, name=folder.name, storage=storage, arms=arms)
        if trials.remaining:
            running = _Running(experiment, search, folder, trials, progress)
            with connect(min_cpus=run.workers.max * run.cpus_per_worker) as cluster:
                from pixelcontrast.cluster.nodes import cluster_resources

                concurrent = concurrency(run, *cluster_resources())
                concurrent = min(search.max_concurrent or concurrent, concurrent)
                _announce(folder, cluster)
                progress.began(remaining=trials.remaining, concurrent=concurrent)
                _tune(running, concurrent)
    return folder


class _Running:
    """Between Tune and the study: both sides' names of the trials.

    Attributes:
        request: to the trials' processes.
        stopping: no other trial may start, and what does not end by itself stays unfinished.
    """

    def __init__(
        self, experiment: Experiment, search: Search, folder: SearchFolder, trials: Trials, progress: Progress
    ):
        self.request = StopRequest(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
        self.stopping = False
        self._experiment, self._search, self.folder = experiment, search, folder
        self.trials, self._progress = trials, progress
        self._proposals: dict[str, Proposal] = {}
        """By Tune's ids; a trial that has ended is none."""

    def propose(self, tune_id: str) -> dict[str, Any] | None:
        """What Tune hands to ``run_trial``."""
        while not self.stopping and (proposal := self.trials.next()) is not None:
            places = {"run.name": proposal.name, "run.storage": self.folder.storage.location}
            self._catch_up(proposal)
            self._progress.started(proposal)
            try:
                experiment = config.replace(self._experiment, proposal.overrides | places)
            except ValueError as error:  # values that are each allowed, and not together
                self._end(proposal, finished=False, failures=[config.explain(error)])
                continue
            self._proposals[tune_id] = proposal
            return {
                "experiment": config.to_json(experiment),
                "max_failures": self._search.max_failures,
                "stop": self.request.name,
                "commit": os.environ.get(config.COMMIT_VARIABLE),
            }
        return None

    def report(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Take what ``run_trial`` reports; True if Tune shall stop the trial."""
        proposal = self._proposals[tune_id]
        if "finished" in result:
            del self._proposals[tune_id]
            self._end(proposal, finished=result["finished"], failures=result["failures"])
            return False
        if "stopped" in result:
            self.withdraw(tune_id)
            self.folder.sync()
            self._progress.stopped(proposal, result["stopped"])
            return False
        self._progress.evaluated(proposal, result["step"], result["miou"])
        if not self.trials.report(proposal.number, result["step"], result["miou"]):
            return False
        del self._proposals[tune_id]
        found = self._note(proposal, {})
        self.trials.prune(proposal.number)
        self._tell("pruned", proposal, found)
        return True

    def died(self, tune_id: str) -> None:
        """Tune lost the trial's process, as often as it may."""
        if self.stopping:
            self.withdraw(tune_id)
        if tune_id in self._proposals:
            proposal = self._proposals.pop(tune_id)
            self._end(proposal, finished=False, failures=["the trial's process died"])

    def withdraw(self, tune_id: str) -> None:
        """The trial runs no more, and goes on in the next driver: in the study it stays as it is."""
        self._proposals.pop(tune_id, None)

    def stop(self, signal: int) -> None:
        """Ask all that run to stop."""
        self.stopping = True
        self.request.ask(signal)

    @property
    def all_ended(self) -> bool:
        """No trial runs, or waits to."""
        return not self._proposals

    def _catch_up(self, proposal: Proposal) -> None:
        """Evaluations of a run taken up that its dead driver did not record."""
        for row in self.folder.evaluations(proposal.name):
            self.trials.report(proposal.number, row["step"], row["miou"])

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
        found = summarize(self.folder.run(proposal.name)) | more
        self.trials.note(proposal.number, found)
        attach(self.trials.study, proposal.number, self.folder)
        return found

    def _tell(self, state: str, proposal: Proposal, found: dict[str, Any]) -> None:
        self.folder.sync()
        self._progress.ended(proposal, state, found)


class _End:
    """Of a search, when a signal asks for it: trials are waited for, but not for ever."""

    def __init__(self, running: _Running, noted: Noted):
        self._running, self._noted = running, noted
        self._asked_at: float | None = None

    def reached(self) -> bool:
        """Nothing is to be waited for any more; the first call after the signal asks the trials to stop."""
        if self._noted.signal is None:
            return False
        if self._asked_at is None:
            logger.warning("Stopping all trials with a checkpoint. The next Ctrl-C or SIGTERM stops without.")
            self._asked_at = time.monotonic()
            self._running.stop(self._noted.signal)
        return self._running.all_ended or time.monotonic() - self._asked_at > _STOP_S


def _tune(running: _Running, concurrent: int) -> None:
    """Run what remains, so many trials at a time; Ctrl-C stops them and raises ``Interrupted``."""
    from ray import tune

    from pixelcontrast.cluster.tune.hooks import Interruption, Judge, Proposals
    from pixelcontrast.cluster.tune.trial import MEMORY, run_trial

    tune_config = tune.TuneConfig(
        num_samples=running.trials.remaining,
        max_concurrent_trials=concurrent,
        search_alg=Proposals(running),
        scheduler=Judge(running),
    )
    with environment(_TUNE_ENVIRONMENT), signals_noted() as noted:
        run_config = tune.RunConfig(
            name=running.request.name,
            storage_path=(running.folder.storage / ".ray").location,
            verbose=0,
            stop=Interruption(_End(running, noted).reached),
            # Only the death of a trial's process: what a training raises, run_trial handles.
            failure_config=tune.FailureConfig(max_failures=1),
        )
        trainable = tune.with_resources(run_trial, {"memory": MEMORY})
        try:
            tune.Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()
        finally:
            running.request.withdraw()
    if noted.signal is not None:
        raise Interrupted(noted.signal)


def _announce(folder: SearchFolder, cluster: Connection) -> None:
    """Where Ray's own dashboard is, for ``pixelcontrast dashboard``."""
    folder.storage.write("ray.json", json.dumps({"dashboard": cluster.dashboard_url}).encode())
