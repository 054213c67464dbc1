"""What a trial tells Tune, without Ray: that it waits for a place, its workers' warnings, how fast it is."""

import logging
import signal
from typing import Any

import pytest
import ray.tune
from ray.exceptions import OutOfMemoryError

from pixelcontrast import Experiment, config
from pixelcontrast.cluster.errors import LaunchError, NoPlaceError
from pixelcontrast.cluster.train.events import Message, Row
from pixelcontrast.cluster.tune import trial

FULL = "the cluster has 0 CPUs free now"


class Cluster:
    """What ``launch`` finds: a full cluster, as often as it is given, and then what is to be raised, if any.

    Attributes:
        reports: what the trial has told Tune.
        messages, rows: what the workers log and report.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, full: int = 0, then: Exception | None = None):
        self.reports: list[dict[str, Any]] = []
        self.signal: int | None = None
        self.messages: list[Message] = []
        self.rows: list[Row] = []
        self._full, self._then = full, then
        patch.setattr(ray.tune, "report", self.reports.append)
        patch.setattr(trial, "launch", self._launch)
        patch.setattr(trial, "_PAUSE_S", 0.0)
        patch.setattr(trial.StopRequest, "signal", lambda _: self.signal)

    def _launch(self, experiment: Experiment, **options: Any) -> None:
        del experiment
        if self._full:
            self._full -= 1
            raise NoPlaceError(FULL)
        if self._then is not None:
            raise self._then
        for message in self.messages:
            options["on_message"](message)
        for row in self.rows:
            options["on_row"](row)


@pytest.fixture
def argument(experiment: Experiment) -> dict[str, Any]:
    """What ``run_trial`` is called with; it may fail once."""
    return {
        "experiment": config.to_json(experiment),
        "memory": 0,
        "max_failures": 1,
        "stop": "a request",
        "commit": None,
    }


def test_a_trial_without_a_place_waits_and_no_failure_is_counted(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, full=5)
    trial.run_trial(argument)
    assert cluster.reports == [{"waiting": FULL}, {"step": 400, "finished": True, "failures": []}]


def test_a_trial_that_waited_fails_for_other_reasons_as_ever(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, full=5, then=LaunchError("worker 0 died"))
    trial.run_trial(argument)
    assert cluster.reports[-1] == {"step": 400, "finished": False, "failures": ["worker 0 died"] * 2}


def test_a_failure_of_ray_itself_is_retried_as_a_worker_s_death_is(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, then=OutOfMemoryError("killed due to the node running low on memory"))
    trial.run_trial(argument)
    assert not cluster.reports[-1]["finished"]
    failures = cluster.reports[-1]["failures"]
    assert len(failures) == 2
    assert failures[0].startswith(
        "Ray failed: Ray killed its process because its node ran out of memory. Lower data.loader_processes, "
    )


def test_a_waiting_trial_stops_with_its_search(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, full=10**9)
    cluster.signal = signal.SIGTERM
    monkeypatch.setattr(trial, "_PAUSE_S", 60.0)
    trial.run_trial(argument)
    assert cluster.reports == [{"waiting": FULL}, {"stopped": ""}]


def test_a_trial_passes_on_each_warning_of_its_workers_once(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch)
    told = [(0, logging.INFO, "resuming"), (0, logging.WARNING, "slow"), (0, logging.WARNING, "slow")]
    told.append((1, logging.WARNING, "slow"))
    told.append((1, logging.WARNING, "alone"))
    cluster.messages = [Message(rank, "pixelcontrast.training", level, text) for rank, level, text in told]
    trial.run_trial(argument)
    assert cluster.reports[:-1] == [{"warning": "slow"}, {"warning": "worker 1: alone"}]


def test_of_warnings_that_differ_in_their_values_a_trial_passes_on_five(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch)
    cluster.messages = [
        Message(
            0, "pixelcontrast.training", logging.WARNING, f"{name}.png cannot be read", "%s cannot be read"
        )
        for name in range(100)
    ]
    trial.run_trial(argument)
    warned = [report["warning"] for report in cluster.reports[:-1]]
    assert warned[0] == "0.png cannot be read"
    assert len(warned) == 5
    assert warned[-1] == "4.png cannot be read (the last of its kind that is shown)"


def test_a_trial_tells_its_speed_once_and_its_evaluations_but_the_last(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_size = config.from_json(argument["experiment"]).optim.batch_size
    cluster = Cluster(monkeypatch)
    speeds = {(1, 20): 1.0, (2, 20): 1.0, (2, 40): 2.0, (2, 60): 2.0}  # the first attempt died early
    cluster.rows = [
        {"kind": "train", "attempt": attempt, "step": step, "images_per_second": batch_size * speed}
        for (attempt, step), speed in speeds.items()
    ]
    cluster.rows += [{"kind": "eval", "step": step, "miou": 0.5} for step in (200, 400)]
    trial.run_trial(argument)
    assert cluster.reports[:-1] == [
        {"step": 40, "seconds_per_step": 0.5, "seconds_left": 180.0},
        {"step": 200, "miou": 0.5},
    ]
