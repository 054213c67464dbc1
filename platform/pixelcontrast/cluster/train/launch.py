"""Launch a training on Ray."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pixelcontrast.cluster.connect import connect, names_cluster
from pixelcontrast.cluster.paths import reachable_paths
from pixelcontrast.cluster.placement import (
    check_memory_fits,
    check_placement,
    takes_gpus,
    worker_resources,
)
from pixelcontrast.cluster.signals import sigterm_interrupts
from pixelcontrast.cluster.train.events import Message, Row
from pixelcontrast.cluster.train.watch import Bounds, usual_bounds
from pixelcontrast.cluster.train.worker import Loop, train
from pixelcontrast.config import Experiment
from pixelcontrast.runs.launch_mark import Mark, marked
from pixelcontrast.runs.lock import held
from pixelcontrast.runs.run_folder import open_storage

if TYPE_CHECKING:
    from pixelcontrast.cluster.train.launcher import Plan


def _never() -> int | None:
    """No signal: there is no other process to ask."""
    return None


def _unheard(words: str) -> None:
    """Nobody waits at a terminal."""


def _log(message: Message) -> None:
    """Log here what was logged on a worker."""
    logging.getLogger(message.logger).log(message.level, "worker %d: %s", message.rank, message.text)


def launch(
    experiment: Experiment,
    *,
    on_row: Callable[[Row], None],
    memory: int = 0,
    on_stage: Callable[[str], None] = _unheard,
    on_message: Callable[[Message], None] = _log,
    stopped_by: Callable[[], int | None] = _never,
    loop: Loop | None = None,
    bounds: Bounds | None = None,
) -> None:
    """Train on the cluster in RAY_ADDRESS, or on a local instance; returns when the training has finished.

    A failed worker or node costs at most the steps since the last checkpoint; an announced end costs none:

    - A worker that dies, raises, or hangs (``Bounds``) is named, and all workers are restarted, up to
      ``run.max_failures`` times; not after a ``ValueError`` or where a GPU's memory is full, which a retry
      would meet again. A node that does not share ``run.storage`` ends the run before its first step.
    - Workers on a node that is being drained (a preemption notice) write a checkpoint and are restarted
      elsewhere. An elastic run (a range of workers) does the same when there is room for more workers.
    - On the first Ctrl-C or SIGTERM they write a checkpoint and end; the second one ends them at once.

    Args:
        on_row: called in this thread with every row of metrics, in order and once each, as the training runs.
        memory: bytes that the contrast's memory takes in every worker (``training.memory_bytes``), which the
            nodes must have.
        on_stage: called in this thread with what is waited for, whenever that changes before the first row.
        on_message: called in this thread with what the platform's loggers say on the workers.
        stopped_by: called in this thread twice a second; returns a signal that another process received on
            behalf of this one, or None. A signal stops the training as the first one to this process would.
        loop: what every worker runs; None for the platform's own, ``worker.train``.
        bounds: None for the usual ones (``usual_bounds``).

    Raises:
        ValueError: another driver has the run, the memory of the contrast does not fit on a node, or a path
            is relative in a job.
        LaunchError: the workers do not fit on the cluster, got no place in time, or failed in every retry;
            the text is the first cause. Or another driver took this one for dead, and took the run over.
        Interrupted: by a signal; the same call resumes from the checkpoint.
    """
    experiment = reachable_paths(experiment)
    run, bounds = experiment.run, bounds or usual_bounds(experiment.run)
    there = f"connecting to Ray at {os.environ['RAY_ADDRESS']}" if names_cluster() else None
    on_stage(there or "starting Ray on this machine")
    with (
        sigterm_interrupts(),
        held(open_storage(experiment), what=f"run {run.name}") as hold,
        marked(open_storage(experiment)) as mark,
        connect(min_cpus=run.workers.max * run.cpus_per_worker, state_api=run.workers.max > 1),
        sigterm_interrupts(),  # again: ray.init has put its own handler in place of ours
    ):
        from pixelcontrast.cluster.train.driver import Driver

        plan = _plan(experiment, loop or partial(train, mark=mark), memory, bounds, mark)
        driver = Driver(
            plan, bounds, hold, on_row=on_row, on_stage=on_stage, on_message=on_message, stopped_by=stopped_by
        )
        driver.follow()


def _plan(experiment: Experiment, loop: Loop, memory: int, bounds: Bounds, mark: Mark) -> "Plan":
    """Look whether the connected cluster has what the run needs, and write down how to use it."""
    from pixelcontrast.cluster import nodes
    from pixelcontrast.cluster.train.launcher import Plan

    run, resources = experiment.run, nodes.cluster_resources()
    check_placement(run, resources)
    gpu = takes_gpus(run, resources)
    check_memory_fits(memory, run, resources, gpu=gpu)
    return Plan(
        experiment=experiment,
        workers=run.workers,
        loop=loop,
        mark=mark,
        resources=worker_resources(run, gpu=gpu),
        loopback=nodes.on_loopback(),
        storage=(open_storage(experiment) / ".ray").location,
        # One more than fits into the time: the driver, which knows what is missing, gives up first.
        placement_attempts=round(bounds.placement_s / bounds.placement_attempt_s) + 1,
    )
