"""A search on Ray: Tune runs the trials, each a whole training, as many side by side as the cluster holds.

Tune keeps no state. The Optuna study has what was proposed, reported and decided, the runs' folders have what
was trained: a search resumes from these, however its driver ended.
"""

import json

from pixelcontrast.cluster.connect import Connection, connect
from pixelcontrast.cluster.environment import environment
from pixelcontrast.cluster.errors import RERUN, LaunchError
from pixelcontrast.cluster.paths import check_job_path, reachable_paths
from pixelcontrast.cluster.placement import concurrency
from pixelcontrast.cluster.signals import Interrupted, signals_noted
from pixelcontrast.cluster.tune.running import Deadline, RunningTrials, SearchListener, describe_failure
from pixelcontrast.config import Experiment
from pixelcontrast.search.folder import Arms, SearchFolder, sqlite_file
from pixelcontrast.search.settings import Search

_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs' folders have all of it
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}

_MOST_DEATHS = 10
"""Times that a trial's process is started again: one that dies as often dies of its own."""
_SHARE = 0.001
"""What a trial takes of the one unit that each node has of its address: 1,000 trials may be on one node."""


def run_search(
    experiment: Experiment, search: Search, *, arms: Arms | None = None, listener: SearchListener
) -> SearchFolder:
    """Run all trials that are asked for and have not ended yet; returns when every one has.

    On the first Ctrl-C or SIGTERM the trainings write a checkpoint and end, and ``Interrupted`` is raised;
    the same call resumes from there. The second one ends them at once.

    Args:
        arms: compare these on ``search.seeds``; None searches ``search.space`` with ``search.trials``.

    Raises:
        ValueError: another search has this name, or this one is running already; the data are others than its
            runs were trained on; or a path is relative in a job.
        LaunchError: no trial fits on the cluster, or it cannot be reached; or the study or the storage failed
            for good, and the trials have stopped with a checkpoint.
    """
    experiment = reachable_paths(experiment)
    if path := sqlite_file(search.study or ""):
        check_job_path("--study", path, "sqlite:////absolute/path.db, or a server's URL,")
    run = experiment.run
    folder = SearchFolder(experiment, search, arms)
    folder.check()
    with folder.held() as storage:
        _check_data(folder.begun(storage))
        trials = folder.trials(storage)
        if trials.remaining:
            running = RunningTrials(experiment, search, folder, trials, listener, _check)
            cpus, state_api = run.workers.max * run.cpus_per_worker, run.workers.max > 1
            with connect(min_cpus=cpus, state_api=state_api) as cluster:
                from pixelcontrast.cluster.nodes import cluster_resources

                concurrent = concurrency(run, cluster_resources(), search.max_concurrent)
                _announce(folder, cluster)
                listener.began(remaining=trials.remaining, concurrent=concurrent)
                _tune(running, concurrent)
    return folder


def _check_data(begun: list[Experiment]) -> None:
    """Refuse to mix results on other images or classes: data.root may have moved, or its files changed."""
    from pixelcontrast import training

    training.check_runs_data(begun, option="--name")


def _check(experiment: Experiment) -> int | None:
    from pixelcontrast import training

    return None if training.check(experiment) is not None else training.memory_bytes(experiment)


def _tune(running: RunningTrials, concurrent: int) -> None:
    """Run the remaining trials, ``concurrent`` at a time; Ctrl-C stops them and raises ``Interrupted``."""
    from ray import tune

    from pixelcontrast.cluster.nodes import own_node
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
            stop=Interruption(Deadline(running, noted).reached),
            # Of the death of a trial's process; what a training raises, run_trial handles.
            failure_config=tune.FailureConfig(max_failures=_MOST_DEATHS),
        )
        # On the driver's node: the loss of another costs no trial more than a restart of its workers.
        place = tune.PlacementGroupFactory([{"memory": MEMORY, own_node(): _SHARE}])
        trainable = tune.with_resources(run_trial, place)
        try:
            tune.Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()
        finally:
            running.request.withdraw()
    if noted.signal is not None:
        raise Interrupted(noted.signal)
    if running.failure is not None:
        raise LaunchError(describe_failure(running.failure), RERUN) from running.failure


def _announce(folder: SearchFolder, cluster: Connection) -> None:
    """Write down where Ray's own dashboard is, for ``pixelcontrast dashboard``."""
    folder.storage.write("ray.json", json.dumps({"dashboard": cluster.dashboard_url}).encode())
