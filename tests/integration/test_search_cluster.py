"""Searches on a real local Ray: trials stopped early, failed, killed; drivers killed and started again."""

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from scipy.stats import ttest_rel
from small_search import EXPERIMENT, SEARCH

from pixelcontrast import config
from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.signals import Interrupted
from pixelcontrast.cluster.tune.search import run_search
from pixelcontrast.search.folder import open_study_storage
from pixelcontrast.search.trials import Proposal
from pixelcontrast.words import points

pytestmark = pytest.mark.timeout(900)
STEPS = EXPERIMENT.optim.steps
FILE = Path(__file__).with_name("small_search.py")


OF_THE_CLUSTER = {"TrainStateActor", "_AutoscalingCoordinatorActor"}
"""Actors that Ray keeps once per cluster, from its first training on."""


class Recorder:
    """A listener that keeps what it is told; ``on_step`` may act on it."""

    def __init__(self) -> None:
        self.concurrent = 0
        self.started_trials: list[str] = []
        self.ended_trials: dict[str, tuple[str, dict[str, Any]]] = {}
        self.stopped_trials: dict[str, str] = {}

    def began(self, *, remaining: int, concurrent: int) -> None:
        del remaining
        self.concurrent = concurrent

    def started(self, proposal: Proposal) -> None:
        self.started_trials.append(proposal.name)

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None: ...

    def ended(self, proposal: Proposal, state: str, found: Mapping[str, Any]) -> None:
        self.ended_trials[proposal.name] = (state, dict(found))

    def stopped(self, proposal: Proposal, where: str) -> None:
        self.stopped_trials[proposal.name] = where


def trials_of(search: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=search.name, storage=open_study_storage(search, None)).get_trials()


def rows_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trained_steps(run: Path) -> list[int]:
    return [row["step"] for row in rows_of(run) if row["kind"] == "train"]


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
        "actors": sorted({actor.class_name for actor in actors} - OF_THE_CLUSTER),
        "resources": {key: total[key] - free.get(key, 0) for key in ("CPU", "memory")},
        "workers": [name for name in names if "RayTrainWorker" in name or "ImplicitFunc" in name],
    }


@pytest.mark.slow
def test_trials_end_as_they_should_and_leave_nothing_behind(scenes: Path, tmp_path: Path) -> None:
    """One trains to the end, one diverges, one is stopped early."""
    places = {"data.root": str(scenes), "run.storage": str(tmp_path)}
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
    first, diverged, idle = folder.trials()
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


class Saboteur(Recorder):
    """Kills a process when a trial has been evaluated for the first time."""

    def __init__(self, targets: Mapping[str, str]):
        super().__init__()
        self._targets = dict(targets)

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None:
        del step, miou
        if target := self._targets.pop(proposal.name, None):
            processes = psutil.Process().children(recursive=True)
            next(found for found in processes if target in found.name()).kill()


@pytest.mark.slow
def test_trials_whose_processes_are_killed_go_on_and_a_hopeless_one_does_not_end_the_search(
    scenes: Path, tmp_path: Path
) -> None:
    """The first trial's worker dies, and the third's Tune process; the second always diverges."""
    places = {"data.root": str(scenes), "run.storage": str(tmp_path), "run.max_failures": 0}
    known = ({}, {"optim.lr": 1e30}, {"optim.lr": 0.02})
    search = dataclasses.replace(SEARCH, known=known, trials=3, early_stopping="none", max_concurrent=1)
    listener = Saboteur({"trial-0000": "RayTrainWorker", "trial-0002": "ImplicitFunc"})
    with connect(min_cpus=2):
        folder = run_search(config.replace(EXPERIMENT, places), search, listener=listener)
    trials = folder.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[0].user_attrs["failures"][0].startswith("worker 0 died: its process was killed")
    assert trials[0].user_attrs["attempts"] == trials[2].user_attrs["attempts"] == 2
    check_the_promise(tmp_path / "small-search", {}, trials=3)


def command(scenes: Path, storage: Path, *more: str) -> list[str]:
    places = ["--data.root", str(scenes), "--run.storage", str(storage)]
    return [sys.executable, str(FILE), *more, *places]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def interrupt_after(
    arguments: list[str], cwd: Path, number: int, how: signal.Signals, *, evaluated: int = 1
) -> tuple[int, str]:
    """Signal the driver when ``number`` trials have ended and so many have been evaluated since."""
    ended = 0
    names: set[str] = set()
    lines = []
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    ) as driver:
        assert driver.stdout is not None
        children: list[psutil.Process] = []
        for line in driver.stdout:
            lines.append(line)
            ended += line.rstrip().endswith("left)")
            if ended >= number and "  step " in line:
                names.add(line.split()[0])
            if len(names) >= evaluated and not children:
                children = psutil.Process(driver.pid).children(recursive=True)
                if how == signal.SIGINT:
                    os.killpg(driver.pid, how)  # a terminal's Ctrl-C reaches all
                else:
                    driver.send_signal(how)
    assert children, "".join(lines)
    assert not psutil.wait_procs(children, timeout=30)[1]
    return driver.returncode, "".join(lines)


def check_the_promise(search: Path, kept: dict[str, bytes], *, trials: int) -> None:
    """What holds of a search after any number of deaths of its driver."""
    found = trials_of(search)
    assert len(found) == trials
    assert not [trial for trial in found if trial.state.name in ("RUNNING", "WAITING")]
    for name, content in kept.items():
        assert (search / name / "metrics.jsonl").read_bytes() == content
    for trial in found:
        rows = rows_of(search / trial.user_attrs["run"])
        assert max(Counter((row["kind"], row["step"]) for row in rows).values(), default=0) <= 1
        evaluated = {row["step"]: row["miou"] for row in rows if row["kind"] == "eval"}
        reported = trial.intermediate_values
        if trial.state.name == "PRUNED":  # the training may go on for a moment
            evaluated = {step: miou for step, miou in evaluated.items() if step <= max(reported)}
        assert reported == evaluated, trial.user_attrs["run"]
        if trial.state.name == "COMPLETE":
            assert (search / trial.user_attrs["run"] / "result.json").is_file()
            assert max(evaluated) == STEPS


def ended_rows(search: Path) -> dict[str, bytes]:
    return {
        trial.user_attrs["run"]: (search / trial.user_attrs["run"] / "metrics.jsonl").read_bytes()
        for trial in trials_of(search)
        if trial.state.is_finished() and (search / trial.user_attrs["run"] / "metrics.jsonl").exists()
    }


@pytest.mark.slow
def test_eight_trials_with_the_driver_killed_twice_and_interrupted_once(scenes: Path, tmp_path: Path) -> None:
    arguments = command(scenes, tmp_path / "runs", "search", "--trials", "8")
    search = tmp_path / "runs" / "small-search"
    kept: dict[str, bytes] = {}
    for number, how, status in [(1, signal.SIGKILL, -9), (1, signal.SIGINT, 130), (1, signal.SIGKILL, -9)]:
        returncode, output = interrupt_after(arguments, tmp_path, number, how)
        assert returncode == status, output
        if how == signal.SIGINT:
            assert "Rerun the command to resume it" in output
        kept |= ended_rows(search)
    run_command(arguments, tmp_path)
    check_the_promise(search, kept, trials=8)
    assert len(kept) >= 3

    again = run_command(arguments, tmp_path)
    assert "starts" not in again
    assert "trained to the end" in again
    check_the_promise(search, ended_rows(search), trials=8)


@pytest.mark.slow
def test_an_interrupted_search_leaves_checkpoints_and_goes_on_from_them(scenes: Path, tmp_path: Path) -> None:
    """Two of three arms run; nothing but the interruption, and the best evaluation, leaves a checkpoint."""
    steps, search = 60, tmp_path / "runs" / "small-arms"
    more = {"optim.steps": steps, "run.eval-interval": 5, "run.checkpoint-interval": 1000}
    options = [text for key, value in more.items() for text in (f"--{key}", str(value))]
    arguments = command(scenes, tmp_path / "runs", "compare", "--seeds", "0", *options)
    returncode, output = interrupt_after(arguments, tmp_path, 0, signal.SIGINT, evaluated=2)
    assert returncode == 130, output
    assert "Stopped. Rerun the command to resume it" in output
    assert "Traceback" not in output
    trials = trials_of(search)
    assert [(trial.user_attrs["run"], trial.state.name) for trial in trials] == [
        ("ce-s0", "RUNNING"),
        ("contrast-s0", "RUNNING"),
    ]
    last = {trial.user_attrs["run"]: trained_steps(search / trial.user_attrs["run"])[-1] for trial in trials}
    for name, step in last.items():
        assert 5 <= step < steps
        # One more may be the best evaluation's.
        newest = max(path.name for path in (search / name / "checkpoints").iterdir())
        assert newest == f"step-{step:08d}"
        assert f"{name}  stopped with a checkpoint at step {step}\n" in output

    run_command(arguments, tmp_path)
    trials = trials_of(search)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    for trial in trials:
        name = trial.user_attrs["run"]
        assert trained_steps(search / name) == list(range(1, steps + 1))
        assert list(trial.intermediate_values) == list(range(5, steps + 1, 5))
        attempts = [json.loads(line) for line in (search / name / "attempts.jsonl").read_text().splitlines()]
        assert [attempt["from_step"] for attempt in attempts] == [0, *([last[name]] if name in last else [])]


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


@pytest.mark.slow
def test_an_interrupted_search_leaves_nothing_on_its_cluster(scenes: Path, tmp_path: Path) -> None:
    """The first trial trains, the second may still start."""
    listener = Interrupter()
    check_interruption(scenes, tmp_path, listener)
    assert listener.started_trials == ["trial-0000", "trial-0001"]
    assert listener.stopped_trials[listener.evaluated_trial].startswith(" with a checkpoint at step ")


@pytest.mark.slow
def test_a_trial_that_cannot_stop_does_not_keep_an_interrupted_search(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process is stopped, and hears nothing."""
    monkeypatch.setattr("pixelcontrast.cluster.tune.running._STOP_S", 5.0)
    listener = Interrupter("ImplicitFunc")
    check_interruption(scenes, tmp_path, listener, max_concurrent=1)
    assert listener.started_trials == ["trial-0000"]
    assert not listener.stopped_trials


@pytest.mark.slow
def test_three_arms_on_three_seeds_print_their_table_and_may_be_asked_for_bit_by_bit(
    scenes: Path, tmp_path: Path
) -> None:
    search = tmp_path / "runs" / "small-arms"
    some = run_command(
        command(scenes, tmp_path / "runs", "compare", "ce", "cool", "--seeds", "0", "1"),
        tmp_path,
    )
    assert "2 arms (ce, cool) on seeds 0, 1" in some
    kept = ended_rows(search)
    assert kept.keys() == {"ce-s0", "ce-s1", "cool-s0", "cool-s1"}
    every = run_command(command(scenes, tmp_path / "runs", "compare"), tmp_path)
    assert "5 trials to run" in every
    check_the_promise(search, kept, trials=9)

    scores: dict[str, list[float]] = {}
    for trial in sorted(trials_of(search), key=lambda trial: trial.user_attrs["seed"]):
        scores.setdefault(trial.user_attrs["arm"], []).append(100 * (trial.value or 0.0))
    mean = statistics.fmean(scores["ce"])
    row = next(line for line in every.splitlines() if line.startswith("ce "))
    numbers = [f"{score:.1f}" for score in scores["ce"]]
    assert row.split() == ["ce", *numbers, f"{mean:.1f}", "±", f"{statistics.stdev(scores['ce']):.1f}"]
    difference = ttest_rel(scores["contrast"], scores["ce"]).confidence_interval(0.95)
    row = next(line for line in every.splitlines() if line.startswith("contrast "))
    mean = statistics.fmean(scores["contrast"]) - statistics.fmean(scores["ce"])
    shown = [points(number / 100) for number in (mean, difference.low, difference.high)]
    assert row.rstrip().endswith("{} [{}, {}]".format(*shown))
    assert "IoU in %, cool and ce" in every
    assert (search / "report.html").is_file()


def run_command(arguments: list[str], cwd: Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=cwd, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
