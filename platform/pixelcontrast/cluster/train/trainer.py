"""Several workers: Ray's trainer places and restarts them, as a process group. Imports Ray Train."""

import secrets
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
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

from pixelcontrast.cluster.errors import RERUN, LaunchError, WorkerError, ended, first_cause
from pixelcontrast.cluster.ray_internals import loopback_backend
from pixelcontrast.cluster.train.events import Finished, Retry
from pixelcontrast.cluster.train.launcher import Launcher, Plan
from pixelcontrast.cluster.train.worker import run_worker
from pixelcontrast.config import to_json

COLLECTIVE_TIMEOUT_S = 24 * 3600
"""Longer than a worker may keep the others waiting in a collective operation: the driver, which knows what it
does meanwhile, ends it before (``watch.Bounds``)."""
_NEVER_S = 1e9


class RayTrainer(Launcher):
    """Runs Ray's trainer, whose controller owns the workers."""

    def fit(self, plan: Plan) -> None:
        """Train; the last event is ``Finished``."""
        # Ray would resume a name that it knows; resuming is ours.
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        try:
            build_trainer(plan, name, ray.get_runtime_context().current_actor).fit()
        except TrainingFailedError as error:
            self.put(Finished(_failure(error)))
        except RayError as error:
            self.put(Finished(ended("Ray's controller of the workers ended", error, RERUN)))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.put(Finished(LaunchError(f"Ray could not start the training: {reason}")))
        else:
            self.put(Finished(None))


def build_trainer(plan: Plan, name: str, launcher: Any) -> TorchTrainer:
    """Ray's trainer for a plan, with a launcher's handle for the events.

    Args:
        name: of the run as Ray sees it; a new one in every call.
    """
    run, workers = plan.experiment.run, plan.workers
    backend = "nccl" if plan.on_gpu else "gloo"
    return TorchTrainer(
        partial(run_worker, launcher=launcher, loop=plan.loop, mark=plan.mark),
        train_loop_config={"experiment": to_json(plan.experiment)},
        scaling_config=ScalingConfig(
            num_workers=workers.min if workers.min == workers.max else (workers.min, workers.max),
            use_gpu=plan.on_gpu,
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
            worker_runtime_env={"env_vars": plan.environment},
        ),
    )


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
        if isinstance(cause, RayError):
            return ended("Ray could not run the workers", cause)
        return LaunchError(f"Ray could not run the workers: {cause}")
    return LaunchError(f"Ray gave up: {error}")


class _LoopbackConfig(TorchConfig):
    """A process group on one machine that meets in a file: torch's TCP store listens on every address."""

    @property
    def backend_cls(self) -> type:
        return loopback_backend()
