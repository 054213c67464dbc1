"""What goes on quietly on a real local Ray instance: a store that takes its time, messages that arrive."""

import logging
from collections.abc import Iterator
from typing import Any

import cluster_loops
import pytest
from cluster_processes import PATHS, tiny_experiment

from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.train.launch import launch
from pixelcontrast.cluster.train.launcher import Launcher
from pixelcontrast.cluster.train.watch import Bounds
from pixelcontrast.cluster.train.worker import _Messages


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", PATHS)
        with connect(min_cpus=2):
            yield


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_slow_store_is_waited_for(tmp_path):
    experiment, rows = tiny_experiment(tmp_path, workers=2), []
    launch(experiment, on_row=rows.append, loop=cluster_loops.slow_store, bounds=Bounds(still_s=8))
    assert [(row["attempt"], row["sum"]) for row in rows] == [(1, 3.0)]


@pytest.mark.usefixtures("cluster")
def test_messages_that_have_arrived_are_forgotten():
    """Ray would keep what each of them was sent with until the run's end."""
    import ray

    actor: Any = ray.remote(num_cpus=0)(Launcher)
    launcher = actor.remote()
    messages = _Messages(launcher, rank=0)
    for number in range(20):
        messages.emit(logging.LogRecord("pixelcontrast", logging.INFO, "", 0, f"{number}", None, None))
        ray.get(launcher.take.remote(10.0))
    assert len(messages._sent) <= 2
    messages.flush()
    ray.kill(launcher)
