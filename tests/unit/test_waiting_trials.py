"""A trial that gets no place, without Ray: it waits, is not failed, and stops with its search."""

import signal
from typing import Any

import pytest
import ray.tune

from pixelcontrast import Experiment, config
from pixelcontrast.cluster.errors import LaunchError, NoPlaceError
from pixelcontrast.cluster.tune import trial

FULL = "the cluster has 0 CPUs free now"


class Cluster:
    """What ``launch`` finds: a full cluster, as often as it is given, and then what is to be raised, if any.

    Attributes:
        reports: what the trial has told Tune.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, full: int, then: Exception | None = None):
        self.reports: list[dict[str, Any]] = []
        self.signal: int | None = None
        self._full, self._then = full, then
        patch.setattr(ray.tune, "report", self.reports.append)
        patch.setattr(trial, "launch", self._launch)
        patch.setattr(trial, "_PAUSE_S", 0.0)
        patch.setattr(trial.StopRequest, "signal", lambda _: self.signal)

    def _launch(self, experiment: Experiment, **options: Any) -> None:
        del experiment, options
        if self._full:
            self._full -= 1
            raise NoPlaceError(FULL)
        if self._then is not None:
            raise self._then


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


def test_a_waiting_trial_stops_with_its_search(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, full=10**9)
    cluster.signal = signal.SIGTERM
    monkeypatch.setattr(trial, "_PAUSE_S", 60.0)
    trial.run_trial(argument)
    assert cluster.reports == [{"waiting": FULL}, {"stopped": ""}]
