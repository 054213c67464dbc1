"""The driver's side of a training: what it hears from the workers, and what it does about it. Imports Ray."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pixelcontrast.cluster import nodes
from pixelcontrast.cluster.errors import RERUN, LaunchError, NoPlaceError, ended, first_cause
from pixelcontrast.cluster.placement import describe_request, workers_in, workers_to_ask_for
from pixelcontrast.cluster.ray_internals import draining_nodes
from pixelcontrast.cluster.signals import Interrupted, Noted, signals_noted
from pixelcontrast.cluster.train import events
from pixelcontrast.cluster.train.launcher import Launcher, LoneWorker, Plan
from pixelcontrast.cluster.train.watch import Bounds, Watch
from pixelcontrast.config import COMMIT_VARIABLE
from pixelcontrast.runs.lock import Hold
from pixelcontrast.words import count

_POLL_S = 0.5
_LOOK_S = 5.0
_END_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 300.0
"""Far more than the launcher needs to start on a busy machine."""
_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""What Ray raises where an actor or its node has ended, or is out of reach."""

logger = logging.getLogger(__name__)


class Driver:
    """Follows a plan to the end of its training, through failures, drained nodes and changes of size."""

    def __init__(
        self,
        plan: Plan,
        bounds: Bounds,
        hold: Hold,
        *,
        on_row: Callable[[events.Row], None],
        on_stage: Callable[[str], None],
        on_message: Callable[[events.Message], None],
        stopped_by: Callable[[], int | None],
    ):
        self._plan, self._on_row, self._bounds = plan, on_row, bounds
        self._on_stage, self._on_message, self._stopped_by = on_stage, on_message, stopped_by
        self._hold = hold
        self._run = plan.experiment.run
        self._handles: list[Any] = []
        """Handles of all workers ever started."""
        self._size, self._resize_s = 0, bounds.resize_s
        """Workers at the last stop to add more, and how long after a start the next such stop may come."""

    def follow(self) -> None:
        """Start the launcher, and trainers until one reaches the training's end; stop what is left.

        Raises:
            LaunchError: the first cause, or what is missing.
            Interrupted: a signal came, here or by ``stopped_by``; the text says where the checkpoint is.
        """
        if (number := self._stopped_by()) is not None:
            raise Interrupted(number)  # before the seconds that a launcher takes to start
        self._failures: list[LaunchError] = []
        self._room = self._free_room()
        """Workers that had a place when it was last looked."""
        self._launcher = self._start_launcher()
        try:
            with signals_noted() as noted:
                while not self._fit(noted):
                    pass
        except RayError as error:
            raise ended("the process that runs the training ended", error, RERUN) from error
        finally:
            ray.kill(self._launcher)
            _wait_for_end(self._handles)

    def _fit(self, noted: Noted) -> bool:
        """One start of the workers by this driver; False if they are to be started again."""
        self._failed, self._stopped_at = False, None
        self._answer: Any = None
        """What ``take`` will return, as long as it has not."""
        self._wait_for_workers()
        plan = replace(self._plan, workers=workers_to_ask_for(self._run, self._room))
        fit = self._launcher.fit.remote(plan)
        try:
            while self._handle_all(self._take()):
                if self._hold.lost:  # a checkpoint would lie among the other driver's
                    raise LaunchError(self._hold.lost, "This one has ended without another checkpoint.")
                if (number := noted.signal or self._stopped_by()) is not None:
                    self._stop_for(number)
                if self._waiting_since is not None:
                    self._check_waiting(self._waiting_since)
                else:
                    self._end_hanging()
                    self._look_for_change()
                # Fails, instead of sending a last event, if the process lacks what the plan is made of.
                if ray.wait([fit], timeout=0)[0]:
                    ray.get(fit, timeout=_ANSWER_TIMEOUT_S)
        except _DEATHS as error:
            if not self._plan.alone:
                raise
            self._fail(first_cause({0: error}))
        if self._failed:
            self._start_anew()
            return False
        if self._stopped_at is None:
            return True
        if (number := noted.signal or self._stopped_by()) is not None:
            raise Interrupted(number, f" with a checkpoint at step {self._stopped_at}")
        logger.warning("%s: checkpoint at step %d, restarting", self._stop_reason, self._stopped_at)
        self._failures = []
        return False

    def _take(self) -> list[events.Event]:
        """The launcher's next events; none while it starts, or is too busy to answer."""
        if self._answer is None:
            self._answer, self._asked_at = self._launcher.take.remote(_POLL_S), time.monotonic()
        if ray.wait([self._answer], timeout=2 * _POLL_S)[0]:
            answer, self._answer = self._answer, None
            return ray.get(answer, timeout=_ANSWER_TIMEOUT_S)
        placing = self._plan.alone and self._waiting_since is not None
        if not placing and time.monotonic() - self._asked_at > _ANSWER_TIMEOUT_S:
            raise LaunchError(
                f"the process that runs the training has not answered for {_ANSWER_TIMEOUT_S:g} seconds"
            )
        return []

    def _handle_all(self, heard: list[events.Event]) -> bool:
        """Handle events in order; False after the last one of the training."""
        for event in heard:
            if isinstance(event, events.Finished):
                if event.failure is not None:
                    self._fail(event.failure)
                return False
            self._handle(event)
        return True

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.Metrics(row):
                self._on_row(row)
            case events.Started():
                self._started(event)
            case events.Alive(rank, beat):
                if self._is_current(rank, beat.worker):
                    self._watch.beat(rank, beat, time.monotonic())
            case events.LoopEnded(rank, worker):
                if self._is_current(rank, worker):
                    self._watch.left(rank)
            case events.Message():
                self._on_message(event)
            case events.Retry(cause):
                self._note(cause)
                self._wait_for_workers()
            case events.Stopped(step):
                self._stopped_at = step

    def _wait_for_workers(self) -> None:
        self._workers: dict[int, events.Started] = {}
        """The workers of this start, by rank."""
        self._watch = Watch(self._bounds)
        self._ended: list[str] = []
        self._stop_reason: str | None = None
        self._stop_asked_at: float | None = None
        self._waiting_since: float | None = time.monotonic()
        self._launcher.ask_to_stop.remote(False)
        self._on_stage(f"waiting for Ray to start the workers ({self._run.workers})")

    def _started(self, event: events.Started) -> None:
        if event.rank in self._workers:  # Ray has restarted them for a reason of its own
            self._wait_for_workers()
        self._workers[event.rank] = event
        self._handles.append(event.handle)
        self._waiting_since = None
        self._looked_at = self._started_at = time.monotonic()
        if event.rank == 0:
            first = count(events.steps_to_first_row(self._plan.experiment), "step")
            self._on_stage(f"workers started: loading data and network; numbers come after {first}")

    def _is_current(self, rank: int, worker: str) -> bool:
        """Whether the worker belongs to this start: the last events of an earlier one may come late."""
        return rank in self._workers and self._workers[rank].worker == worker

    def _note(self, cause: LaunchError) -> None:
        """Note the cause of a failure; if a worker was ended here, the reason for that."""
        failure = LaunchError("; ".join(self._ended)) if self._ended else cause
        self._failures.append(failure)
        attempt, most = len(self._failures), self._run.max_failures
        if attempt <= most:
            retry = LaunchError(f"{failure.finding}; retry {attempt} of {most}", failure.remedy)
            logger.warning("%s", retry)

    def _fail(self, failure: LaunchError) -> None:
        """The launcher has given up: raise why, unless it is a lone worker that may be started again.

        Ray's trainer has done its retries by itself.
        """
        if self._plan.alone and not failure.final:
            self._note(failure)
            self._failed = len(self._failures) <= self._run.max_failures
        if not self._failed:
            raise self._final(failure)

    def _final(self, failure: LaunchError) -> LaunchError:
        """The error to raise in the end: the first failure of all, and the last one if it is different."""
        if failure.final or not self._failures:
            return failure
        first, last, attempts = self._failures[0], self._failures[-1], len(self._failures)
        if attempts <= self._run.max_failures:  # retries are left, but there is no room
            return type(failure)(f"{failure.finding}. Before that, {first.finding}", failure.remedy)
        if attempts == 1:
            return first
        others = "each" if first.finding == last.finding else f"the first; the last: {last.finding}"
        return LaunchError(
            f"{first.finding} (of {attempts} attempts {others})",
            first.remedy or last.remedy,
            worker_traceback=first.worker_traceback or last.worker_traceback,
        )

    def _stop_for(self, signal: int) -> None:
        """Ask for a checkpoint; raise at once if there is nothing to save, or when it takes too long."""
        if self._waiting_since is not None:
            raise Interrupted(signal)
        if self._stop_asked_at is None:
            logger.warning("Stopping with a checkpoint. Press Ctrl-C or send SIGTERM again to stop without.")
            self._ask_to_stop("a signal")
        elif time.monotonic() - self._stop_asked_at > self._bounds.stop_s:
            took = f"it took more than {self._bounds.stop_s:g} seconds"
            raise Interrupted(signal, f" without a new checkpoint: {took}")

    def _ask_to_stop(self, reason: str) -> None:
        self._stop_reason, self._stop_asked_at = reason, time.monotonic()
        self._launcher.ask_to_stop.remote(True)

    def _check_waiting(self, since: float) -> None:
        """Bound the wait for a place: Ray does so for a fixed number of workers, not for an elastic run."""
        if time.monotonic() - since > self._bounds.placement_s:
            free = ray.available_resources()
            there = " and ".join(f"{free.get(name, 0):g} {name}s" for name in self._plan.resources)
            failure = NoPlaceError(
                f"{describe_request(self._run, self._plan.resources)}; they got no place in "
                f"{self._bounds.placement_s:g} seconds, or could not connect to each other. The cluster has "
                f"{there} free now",
                "Others may hold the rest, or a node left or is still starting: wait for them, or add nodes; "
                "run.node_timeout sets how long a run waits. Where enough is free, a firewall may be between "
                "the nodes.",
            )
            raise self._final(failure)

    def _end_hanging(self) -> None:
        """End the workers that keep the others waiting; all then start again, as after a death."""
        if self._ended:
            return
        for rank, reason in self._watch.hanging(time.monotonic()).items():
            self._ended.append(reason)
            ray.kill(self._workers[rank].handle)

    def _look_for_change(self) -> None:
        """Stop the workers, to be restarted, if one of their nodes leaves or there is room for more."""
        now = time.monotonic()
        if self._stop_asked_at is not None or now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        leaving = draining_nodes() & {worker.node for worker in self._workers.values()}
        more = self._run.workers.max - len(self._workers)
        if leaving:
            staying = [worker for worker in self._workers.values() if worker.node not in leaving]
            self._room = len(staying) + self._free_room()
            self._ask_to_stop(f"{len(leaving)} of the workers' nodes will be taken away")
        elif more > 0 and now - self._started_at > self._resize_s:
            room = min(more, self._free_room())
            if room:
                # If the last stop did not bring more workers, wait twice as long for the next.
                grew = len(self._workers) > self._size
                self._resize_s = self._bounds.resize_s if grew else 2 * self._resize_s
                self._size = len(self._workers)
                self._room = self._size + room
                self._ask_to_stop(f"there is room for {count(room, 'more worker')}")

    def _free_room(self) -> int:
        """How many workers fit into what is free now, on nodes that stay."""
        return sum(workers_in(node, self._plan.resources) for node in nodes.free_resources())

    def _start_launcher(self) -> Any:
        """The actor, with the environment that its children inherit; it may have to wait for resources."""
        context = ray.get_runtime_context()
        environment = {"RAY_ADDRESS": context.gcs_address}
        if COMMIT_VARIABLE in os.environ:
            environment[COMMIT_VARIABLE] = os.environ[COMMIT_VARIABLE]
        # fit and take hold a thread each, the workers' calls need one for a moment.
        options: dict[str, Any] = {"max_concurrency": 8, "num_cpus": 0}
        launcher: type[Launcher]
        if self._plan.alone:
            environment |= self._plan.environment
            resources = self._plan.resources
            options |= {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)}
            # Anywhere: Ray's own default in a trial is the trial's placement group, which has no CPU.
            options["scheduling_strategy"], launcher = "DEFAULT", LoneWorker
        else:
            from pixelcontrast.cluster.train.trainer import RayTrainer

            seconds = self._bounds.placement_attempt_s
            environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = f"{seconds:g}"
            if not self._plan.loopback:  # the pages of a local instance end with it: nobody looks at them
                environment["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"
            here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False)
            options["scheduling_strategy"], launcher = here, RayTrainer
        options["runtime_env"] = {"env_vars": environment}
        actor: Any = ray.remote(launcher)
        return actor.options(**options).remote()

    def _start_anew(self) -> None:
        """End the lone worker for certain, as there must be one only, and make another."""
        ray.kill(self._launcher)
        _wait_for_end(self._handles)
        self._launcher = self._start_launcher()


def _wait_for_end(workers: list[Any]) -> None:
    """Wait until the workers are gone: the same run, if restarted at once, must not meet them."""
    give_up = time.monotonic() + _END_TIMEOUT_S
    for worker in workers:
        while time.monotonic() < give_up:
            try:
                ray.get(worker.__ray_ready__.remote(), timeout=1.0)
            except GetTimeoutError:
                continue
            except RayError as error:
                if not isinstance(error, ActorUnavailableError):  # which may be back, and still write
                    break
            time.sleep(0.2)
