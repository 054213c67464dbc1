"""Launch a training on Ray."""

from collections.abc import Callable

from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.paths import absolute_paths
from pixelcontrast.cluster.placement import (
    check_memory_fits,
    check_placement,
    takes_gpus,
    worker_resources,
)
from pixelcontrast.cluster.signals import sigterm_interrupts
from pixelcontrast.cluster.train.watch import Bounds
from pixelcontrast.cluster.train.worker import Loop, Row, train
from pixelcontrast.config import Experiment


def _never() -> int | None:
    """No signal."""
    return None


def launch(
    experiment: Experiment, *, on_row: Callable[[Row], None], stopped_by: Callable[[], int | None] = _never
) -> None:
    """Train on the cluster in RAY_ADDRESS, or on a local instance; returns when the training has finished.

    Nothing that happens to workers or nodes loses more than the steps since the last checkpoint, and what is
    known beforehand loses none:

    - A worker that dies, raises, or hangs (``Bounds``) is named, and all workers start again, up to
      ``run.max_failures`` times; not so after a ``ValueError``, which would come again.
    - Workers on a node that is being drained (a preemption notice) write a checkpoint and start again
      elsewhere. With a range of workers, so they do when there is room for more of them.
    - On the first Ctrl-C or SIGTERM they write a checkpoint and end; the second one ends them at once.

    Args:
        on_row: called in this thread with every row of metrics, in order and once each, as training goes on.
        stopped_by: asked in this thread, twice a second; the signal that another process got for this one,
            which gets none itself, or None. It stops the training as the first signal to this process would.

    Raises:
        ValueError: the memory of the contrast does not fit on a node, or a path is relative in a job.
        LaunchError: the workers do not fit on the cluster, got no place in time, or failed for good; the text
            is the first cause.
        Interrupted: by a signal; the same call goes on from the checkpoint.
    """
    from pixelcontrast.training import memory_bytes

    memory = memory_bytes(experiment)
    _launch(experiment, on_row=on_row, loop=train, memory=memory, stopped_by=stopped_by)


def _launch(
    experiment: Experiment,
    *,
    on_row: Callable[[Row], None],
    loop: Loop,
    memory: int = 0,
    bounds: Bounds | None = None,
    stopped_by: Callable[[], int | None] = _never,
) -> None:
    experiment = absolute_paths(experiment)
    run, bounds = experiment.run, bounds or Bounds()
    with connect(min_cpus=run.workers.max * run.cpus_per_worker), sigterm_interrupts():
        from pixelcontrast.cluster import nodes
        from pixelcontrast.cluster.train.driver import Following
        from pixelcontrast.cluster.train.launcher import Plan
        from pixelcontrast.training.run_folder import open_storage

        resources, growth = nodes.cluster_resources()
        check_placement(run, resources, growth)
        gpu = takes_gpus(run, resources, growth)
        check_memory_fits(memory, run, resources, gpu=gpu)
        plan = Plan(
            experiment=experiment,
            loop=loop,
            resources=worker_resources(run, gpu=gpu),
            loopback=nodes.on_loopback(),
            storage=(open_storage(experiment) / ".ray").location,
            # One more than fit into the time: the driver gives up first, and knows what is missing.
            placement_attempts=round(bounds.placement_s / bounds.placement_attempt_s) + 1,
        )
        Following(plan, on_row=on_row, bounds=bounds, stopped_by=stopped_by).follow()
