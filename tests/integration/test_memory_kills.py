"""Ray's memory monitor kills the workers, on an instance of its own that takes any use for too much."""

import re
from pathlib import Path

import cluster_loops
import pytest
from cluster_processes import PATHS, tiny_experiment

from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.train.launch import launch

KILLED = r"Ray killed its process because its node ran out of memory \([\d.]+ of [\d.]+ GB used, by all that "


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.25, 60.0], ids=["as it starts", "as it trains"])
def test_a_lone_worker_that_ray_kills_for_memory_is_retried_and_the_end_is_one_line(
    after_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", f"{1000 * after_s:.0f}")
    experiment, rows = tiny_experiment(tmp_path, workers=1), []
    with connect(min_cpus=1), pytest.raises(LaunchError) as caught:
        launch(experiment, on_row=rows.append, loop=cluster_loops.endless)
    assert re.search(
        rf"worker 0 died: {KILLED}.*; retry 1 of 1\. Lower data\.loader_processes, ", caplog.text
    )
    assert re.match(rf"worker 0 died: {KILLED}.* \(of 2 attempts .*\)\. Lower data\.", str(caught.value))
    assert caplog.text.count("; retry ") == 1
    assert bool(rows) == (after_s > 10)
