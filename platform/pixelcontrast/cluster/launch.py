"""Launch a training on Ray and follow it from the driver."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.local import connect
from pixelcontrast.cluster.placement import (
    check_memory_fits,
    check_placement,
    describe_request,
    takes_gpus,
    worker_resources,
)
from pixelcontrast.cluster.settings import sigterm_interrupts
from pixelcontrast.cluster.worker import Loop, Row, train
from pixelcontrast.config import Experiment, Run

PLACEMENT_TIMEOUT_S = 600.0
"""How long workers may wait for a place, at the start and after each failure; an autoscaler needs minutes."""
_PLACEMENT_ATTEMPT_S = 60.0
_POLL_S = 0.5
_STOP_TIMEOUT_S = 20.0

logger = logging.getLogger(__name__)


def launch(experiment: Experiment, *, on_row: Callable[[Row], None]) -> None:
    """Train on the cluster in RAY_ADDRESS, or on a local instance; returns when the training has finished.

    Ctrl-C and SIGTERM stop the workers and raise ``KeyboardInterrupt``. When a worker dies or raises, Ray
    starts all of them again, up to ``run.max_failures`` times; not so after a ``ValueError``, which would
    come again.

    Args:
        on_row: called in this thread with every row of metrics, in order and once each, as training goes on.

    Raises:
        ValueError: the memory of the contrast does not fit on a node.
        LaunchError: the workers do not fit on the cluster, got no place in time, or failed for good; the text
            is the first cause.
    """
    from pixelcontrast.training import memory_bytes

    _launch(experiment, on_row=on_row, loop=train, memory=memory_bytes(experiment))


def _launch(
    experiment: Experiment,
    *,
    on_row: Callable[[Row], None],
    loop: Loop,
    memory: int = 0,
    placement_timeout_s: float = PLACEMENT_TIMEOUT_S,
) -> None:
    experiment = absolute_paths(experiment)
    run = experiment.run
    with connect(min_cpus=run.workers.max * run.cpus_per_worker), sigterm_interrupts():
        from pixelcontrast.cluster.launcher import Plan

        nodes, growth = cluster_resources()
        check_placement(run, nodes, growth)
        gpu = takes_gpus(run, nodes, growth)
        check_memory_fits(memory, run, nodes, gpu=gpu)
        attempt_s = min(_PLACEMENT_ATTEMPT_S, placement_timeout_s)
        plan = Plan(
            experiment=experiment,
            loop=loop,
            resources=worker_resources(run, gpu=gpu),
            loopback=_is_loopback(),
            storage=f"{run.storage.rstrip('/')}/{run.name}/.ray",
            # Ray would resume a name that it knows; resuming is ours.
            name=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            # One more than fit into the time: the driver gives up first, and knows what is missing.
            placement_attempts=round(placement_timeout_s / attempt_s) + 1,
        )
        _Following(plan, on_row=on_row, placement_timeout_s=placement_timeout_s).follow(attempt_s)


def absolute_paths(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths, as workers run in a folder of Ray's; URIs stay as they are."""
    data, run, model = experiment.data, experiment.run, experiment.model
    weights = model.weights if model.weights in ("none", "timm") else _absolute(model.weights)
    return replace(
        experiment,
        data=replace(data, root=_absolute(data.root)),
        run=replace(run, storage=_absolute(run.storage)),
        model=replace(model, weights=weights),
    )


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def cluster_resources() -> tuple[list[dict[str, float]], dict[str, float] | None]:
    """Of the cluster: resources of each living node, and the most that an autoscaler can add up to."""
    import ray
    from ray._private.state import state

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    growth = state.get_max_resources_from_cluster_config()
    return nodes, dict(growth) if growth else None


def _is_loopback() -> bool:
    import ray

    return all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes() if node["Alive"])


class _Following:
    """The driver's side of one launch: takes the events, and sees to it that nothing runs on afterwards."""

    def __init__(self, plan: Any, *, on_row: Callable[[Row], None], placement_timeout_s: float):
        self._plan, self._on_row, self._timeout_s = plan, on_row, placement_timeout_s
        self._run: Run = plan.experiment.run
        self._workers: dict[int, Any] = {}
        self._waiting_since: float | None = time.monotonic()
        self._restarts = 0

    def follow(self, placement_attempt_s: float) -> None:
        """Start the launcher, hand on its events to the last, and stop what is left.

        Raises:
            LaunchError: the first cause, or what is missing.
        """
        import ray
        from ray.exceptions import RayError

        launcher = _start_launcher(placement_attempt_s)
        try:
            fit = launcher.fit.remote(self._plan)
            while self._handle(ray.get(launcher.take.remote(_POLL_S))):
                self._check_waiting()
                # Fails, other than with a last event, when the process lacks what the plan is made of.
                if ray.wait([fit], timeout=0)[0]:
                    ray.get(fit)
        except RayError as error:
            raise LaunchError(f"the process that runs Ray's trainer failed: {error}") from error
        finally:
            ray.kill(launcher)
            _wait_for_end(list(self._workers.values()))

    def _handle(self, events: list[tuple[str, Any]]) -> bool:
        """False after the last event."""
        for kind, content in events:
            match kind:
                case "row":
                    self._on_row(content)
                case "started":
                    rank, self._workers[rank] = content
                    self._waiting_since = None
                case "message":
                    rank, name, level, text = content
                    logging.getLogger(name).log(level, "worker %d: %s", rank, text)
                case "restart":
                    self._restart(content)
                case "finished":
                    if content is not None:
                        raise content
                    return False
        return True

    def _restart(self, cause: str) -> None:
        self._waiting_since = time.monotonic()
        self._restarts += 1
        if self._restarts <= self._run.max_failures:
            logger.warning("%s; starting again (%d of %d)", cause, self._restarts, self._run.max_failures)

    def _check_waiting(self) -> None:
        """Ray bounds the wait of a fixed number of workers, but an elastic run would wait for ever."""
        import ray

        if self._waiting_since is not None and time.monotonic() - self._waiting_since > self._timeout_s:
            free = ray.available_resources()
            there = " and ".join(f"{free.get(name, 0):g} {name}s" for name in self._plan.resources)
            raise LaunchError(
                f"{describe_request(self._run, self._plan.resources)}; they got no place in "
                f"{self._timeout_s:g} seconds. The cluster has {there} free now: others may hold the rest, "
                "or a node left."
            )


def _start_launcher(placement_attempt_s: float) -> Any:
    """The actor, on this machine, with the environment that its children inherit."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pixelcontrast.cluster.launcher import Launcher

    context = ray.get_runtime_context()
    environment = {
        "RAY_ADDRESS": context.gcs_address,
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{placement_attempt_s:g}",
    }
    actor: Any = ray.remote(Launcher)
    return actor.options(
        num_cpus=0,
        # fit and take hold a thread each, the workers' calls need one for a moment.
        max_concurrency=8,
        runtime_env={"env_vars": environment},
        scheduling_strategy=NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False),
    ).remote()


def _wait_for_end(workers: list[Any]) -> None:
    """Wait until the workers are gone: the same run, started again at once, must not meet them."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    give_up = time.monotonic() + _STOP_TIMEOUT_S
    for worker in workers:
        while time.monotonic() < give_up:
            try:
                ray.get(worker.get_metadata.remote(), timeout=1.0)
            except RayActorError:
                break
            except GetTimeoutError:
                continue
            time.sleep(0.2)
