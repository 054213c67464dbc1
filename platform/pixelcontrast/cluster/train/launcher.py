"""The actor between driver and trainer: it calls ``fit`` and collects the workers' events for the driver.

It owns Train's controller, which owns the workers: when it is killed, or when the driver dies, they all end.
So stopping a training needs no hook into the controller. This module imports Ray.
"""

import os
import queue
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from pixelcontrast.cluster.errors import LaunchError, WorkerError, first_cause
from pixelcontrast.cluster.ray_internals import loopback_backend
from pixelcontrast.cluster.train.events import Alive, Beat, Event, Finished, Retry
from pixelcontrast.cluster.train.worker import Loop, run_worker
from pixelcontrast.config import Experiment, to_json

COLLECTIVE_TIMEOUT_S = 600
"""The longest time that a worker may keep the others waiting in a collective operation."""
_NEVER_S = 1e9


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What Ray's trainer is built from.

    Attributes:
        experiment: with absolute paths.
        loop: the training.
        resources: of one worker, by Ray's names.
        loopback: all workers are on this machine and must listen on 127.0.0.1 only.
        storage: a folder or URI for Ray's own files.
        placement_attempts: how often Ray tries to place the workers before it gives up.
    """

    experiment: Experiment
    loop: Loop
    resources: Mapping[str, float]
    loopback: bool
    storage: str
    placement_attempts: int


class Launcher:
    """Runs a plan in one thread; the workers' calls and the driver's arrive in others."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = False

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.put(event)

    def beat(self, rank: int, beat: Beat) -> bool:
        """Take a worker's heartbeat; True asks it to write a checkpoint and end."""
        self.put(Alive(rank, beat))
        return self._stop

    def ask_to_stop(self, stop: bool) -> None:
        """Set the answer to the next heartbeats."""
        self._stop = stop

    def take(self, timeout_s: float) -> list[Event]:
        """All events since the last call, in order; waits for the first, or until the time is over."""
        try:
            events = [self._events.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def fit(self, plan: Plan, name: str) -> None:
        """Train; the last event is ``Finished``.

        Args:
            name: of the run as Ray sees it; a new one in every call.
        """
        try:
            build_trainer(plan, name, ray.get_runtime_context().current_actor).fit()
        except TrainingFailedError as error:
            self.put(Finished(_failure(error)))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.put(Finished(LaunchError(f"Ray could not start the training: {reason}")))
        else:
            self.put(Finished(None))


def build_trainer(plan: Plan, name: str, launcher: Any) -> TorchTrainer:
    """Ray's trainer for a plan, with a launcher's handle for the events."""
    run = plan.experiment.run
    workers = run.workers
    backend = "nccl" if "GPU" in plan.resources else "gloo"
    return TorchTrainer(
        partial(run_worker, launcher=launcher, loop=plan.loop),
        train_loop_config={"experiment": to_json(plan.experiment)},
        scaling_config=ScalingConfig(
            num_workers=workers.min if workers.min == workers.max else (workers.min, workers.max),
            use_gpu="GPU" in plan.resources,
            resources_per_worker=dict(plan.resources),
            # Ray would end the workers without a checkpoint to add more; the driver stops them with one.
            elastic_resize_monitor_interval_s=_NEVER_S,
        ),
        torch_config=(_LoopbackConfig if plan.loopback else TorchConfig)(
            backend=backend, timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        run_config=RunConfig(
            name=name,
            storage_path=plan.storage,
            checkpoint_config=CheckpointConfig(),
            failure_config=FailureConfig(
                max_failures=run.max_failures, controller_failure_limit=plan.placement_attempts - 1
            ),
            callbacks=[_Failures(launcher)],
            worker_runtime_env={"env_vars": _threads(run.cpus_per_worker) | _interfaces(plan.loopback)},
        ),
    )


def _threads(count: int) -> dict[str, str]:
    return {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}


def _interfaces(loopback: bool) -> dict[str, str]:
    """Variables that keep gloo and NCCL on loopback, instead of the interface of the machine's name."""
    if not loopback:
        return {}
    name = "lo0" if os.uname().sysname == "Darwin" else "lo"
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


class _Failures(UserCallback):
    """In Train's controller: tells the driver of a retry, or ends the run if a retry cannot help."""

    def __init__(self, launcher: Any):
        self._launcher = launcher

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a worker's final error: what a callback raises is not retried."""
        del run_context
        for failure in worker_exceptions.values():
            if isinstance(failure, WorkerError) and failure.final:
                raise failure
        self._launcher.put.remote(Retry(first_cause(worker_exceptions)))


def _failure(error: TrainingFailedError) -> LaunchError:
    if isinstance(error, WorkerGroupError):
        return first_cause(error.worker_failures)
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, WorkerError):
            return first_cause({cause.rank: cause})
        return LaunchError(f"Ray could not run the workers: {cause}")
    return LaunchError(f"Ray gave up: {error}")


class _LoopbackConfig(TorchConfig):
    """A process group on one machine that meets in a file: torch's TCP store listens on every address."""

    @property
    def backend_cls(self) -> type:
        return loopback_backend()
