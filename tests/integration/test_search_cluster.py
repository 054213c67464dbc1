"""Searches on a real local Ray, driven by this process: trials stopped early, failed, killed, interrupted."""

import dataclasses
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from search_results import check_the_promise, rows_of, trials_of
from small_search import EXPERIMENT, SEARCH

from pixelcontrast import config
from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.signals import Interrupted
from pixelcontrast.cluster.tune.search import run_search
from pixelcontrast.search.trials import Proposal, handed_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Recorder:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.concurrent = 0
        self.started_trials: list[str] = []
        self.ended_trials: dict[str, tuple[str, dict[str, Any]]] = {}
        self.stopped_trials: dict[str, str] = {}
        self.warnings: dict[str, list[str]] = {}
        self.timed: list[tuple[str, int]] = []

    def began(self, *, remaining: int, concurrent: int) -> None:
        del remaining
        self.concurrent = concurrent

    def started(self, proposal: Proposal) -> None:
        self.started_trials.append(proposal.name)

    def warned(self, proposal: Proposal, text: str) -> None:
        self.warnings.setdefault(proposal.name, []).append(text)

    def training(self, proposal: Proposal, step: int, seconds_per_step: float, seconds_left: float) -> None:
        assert seconds_left == (EXPERIMENT.optim.steps - step) * seconds_per_step > 0
        self.timed.append((proposal.name, step))

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None: ...

    def ended(self, proposal: Proposal, state: str, found: Mapping[str, Any]) -> None:
        self.ended_trials[proposal.name] = (state, dict(found))

    def stopped(self, proposal: Proposal, where: str) -> None:
        self.stopped_trials[proposal.name] = where


def left_behind() -> dict[str, Any]:
    """Placement groups, actors, resources and workers that a search has not given back."""
    import ray
    from ray.util import placement_group_table
    from ray.util.state import list_actors

    total, free = ray.cluster_resources(), ray.available_resources()
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    groups: Any = placement_group_table()
    actors: Any = list_actors(filters=[("state", "=", "ALIVE")])
    return {
        "groups": [group for group in groups.values() if group["state"] != "REMOVED"],
        "actors": sorted({actor.class_name for actor in actors}),
        "resources": {key: total[key] - free.get(key, 0) for key in ("CPU", "memory")},
        "workers": [name for name in names if "LoneWorker" in name or "ImplicitFunc" in name],
    }


def test_trials_end_as_they_should_and_leave_nothing_behind(scenes: Path, tmp_path: Path) -> None:
    """One trains to the end, one diverges, one is stopped early; what their workers warn of is passed on."""
    places = {"data.root": str(scenes), "run.storage": str(tmp_path), "contrast.semi_hard_share": 0.2}
    search = dataclasses.replace(SEARCH, trials=3, reduction_factor=4)
    listener = Recorder()
    with connect(min_cpus=2):
        before = left_behind()
        folder = run_search(config.replace(EXPERIMENT, places), search, listener=listener)
        deadline = time.monotonic() + 60
        while (after := left_behind()) != before and time.monotonic() < deadline:
            time.sleep(1)
        assert after == before
    assert listener.concurrent == 2
    first, diverged, idle = handed_out(folder.load())
    assert [trial.state.name for trial in (first, diverged, idle)] == ["COMPLETE", "FAIL", "PRUNED"]
    assert diverged.user_attrs["error"].startswith("worker 0 failed: ValueError: the loss of step 2 is nan")
    assert diverged.user_attrs["failures"] == [diverged.user_attrs["error"]]  # the same would happen again

    rows = rows_of(tmp_path / "small-search" / "trial-0000")
    evaluated = {row["step"]: row["miou"] for row in rows if row["kind"] == "eval"}
    assert first.intermediate_values == evaluated
    assert list(evaluated) == [3, 6, 9, 12]
    assert first.value == evaluated[12]
    found = first.user_attrs
    assert found["best_miou"] == max(evaluated.values())
    assert 0 <= found["iou/road"] <= 1
    assert found["worker_seconds"] == found["seconds"] > 0
    assert (tmp_path / "small-search/trial-0000" / found["checkpoint"] / "model.safetensors").is_file()
    assert idle.intermediate_values.keys() <= {3, 6, 9}
    assert not (tmp_path / "small-search" / "trial-0002" / "result.json").exists()
    assert {name: state for name, (state, _) in listener.ended_trials.items()} == {
        "trial-0000": "complete",
        "trial-0001": "failed",
        "trial-0002": "pruned",
    }
    assert listener.warnings.keys() == listener.ended_trials.keys()
    for lines in listener.warnings.values():
        assert lines[0].startswith("contrast.semi_hard_share 0.2 has no effect: contrast.positive_mining is ")
    assert ("trial-0000", 2) in listener.timed


class Saboteur(Recorder):
    """Kills a process of a trial at each of its first evaluations, as many as there are names for it."""

    def __init__(self, targets: Mapping[str, Sequence[str]]):
        super().__init__()
        self._targets = {trial: list(names) for trial, names in targets.items()}

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None:
        del step, miou
        if targets := self._targets.get(proposal.name):
            target = targets.pop(0)
            processes = psutil.Process().children(recursive=True)
            next(found for found in processes if target in found.name()).kill()


def test_trials_whose_processes_are_killed_go_on_and_a_hopeless_one_does_not_end_the_search(
    scenes: Path, tmp_path: Path
) -> None:
    """The first trial's worker dies, and twice the third's Tune process; the second always diverges."""
    places = {"data.root": str(scenes), "run.storage": str(tmp_path), "run.max_failures": 0}
    known = ({}, {"optim.lr": 1e30}, {"optim.lr": 0.02})
    search = dataclasses.replace(SEARCH, known=known, trials=3, early_stopping="none", max_concurrent=1)
    listener = Saboteur({"trial-0000": ["LoneWorker"], "trial-0002": ["ImplicitFunc"] * 2})
    with connect(min_cpus=2):
        folder = run_search(config.replace(EXPERIMENT, places), search, listener=listener)
    trials = handed_out(folder.load())
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[0].user_attrs["failures"][0].startswith("worker 0 died: its process was killed")
    assert [trials[number].user_attrs["attempts"] for number in (0, 2)] == [2, 3]
    check_the_promise(tmp_path / "small-search", {}, trials=3)


class Interrupter(Recorder):
    """Ends the search as ``kill`` does when a trial has been evaluated for the first time.

    Args:
        stop_process: in the name of one that is stopped (SIGSTOP) before.
    """

    def __init__(self, stop_process: str = "") -> None:
        super().__init__()
        self._stop_process, self.evaluated_trial = stop_process, ""

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None:
        del step, miou
        if self.evaluated_trial:
            return
        self.evaluated_trial = proposal.name
        if self._stop_process:
            processes = psutil.Process().children(recursive=True)
            next(found for found in processes if self._stop_process in found.name()).suspend()
        os.kill(os.getpid(), signal.SIGTERM)


def check_interruption(scenes: Path, storage: Path, listener: Interrupter, **settings: Any) -> None:
    """The started ones of three trials are unfinished, and nothing is left on the cluster."""
    places = {"data.root": str(scenes), "run.storage": str(storage), "optim.steps": 1000}
    search = dataclasses.replace(SEARCH, known=({}, {"optim.lr": 0.02}), trials=3, **settings)
    with connect(min_cpus=2):
        before = left_behind()
        with pytest.raises(Interrupted) as caught:
            run_search(config.replace(EXPERIMENT, places), search, listener=listener)
        assert caught.value.signal == signal.SIGTERM
        deadline = time.monotonic() + 60
        while (after := left_behind()) != before and time.monotonic() < deadline:
            time.sleep(1)
        assert after == before
    assert not listener.ended_trials
    trials = trials_of(storage / "small-search")
    unfinished = [trial.user_attrs["run"] for trial in trials if trial.state.name == "RUNNING"]
    assert unfinished == listener.started_trials


def test_an_interrupted_search_leaves_nothing_on_its_cluster(scenes: Path, tmp_path: Path) -> None:
    """The first trial trains, the second may still start."""
    listener = Interrupter()
    check_interruption(scenes, tmp_path, listener)
    assert listener.started_trials == ["trial-0000", "trial-0001"]
    assert listener.stopped_trials[listener.evaluated_trial].startswith(" with a checkpoint at step ")


def test_a_trial_that_cannot_stop_does_not_keep_an_interrupted_search(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process is stopped, and hears nothing."""
    monkeypatch.setattr("pixelcontrast.cluster.tune.running._STOP_S", 5.0)
    listener = Interrupter("ImplicitFunc")
    check_interruption(scenes, tmp_path, listener, max_concurrent=1)
    assert listener.started_trials == ["trial-0000"]
    assert not listener.stopped_trials
