"""Trials as Tune asks for them, without Ray: handed out, failed, and stopped with their search."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from optuna.exceptions import StorageInternalError
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

import small_runs
from pixelcontrast import Experiment, Search, choice, config, integers
from pixelcontrast.cli.search import _Lines
from pixelcontrast.cluster.signals import Interrupted, Noted
from pixelcontrast.cluster.tune.running import Deadline, RunningTrials, SearchListener, describe_failure
from pixelcontrast.cluster.tune.trial import _attempt, _Reports
from pixelcontrast.runs import lock
from pixelcontrast.runs.run_folder import open_storage, write_rows
from pixelcontrast.search.settings import check_space
from pixelcontrast.search.trials import Proposal
from pixelcontrast.storage import StorageError
from small_runs import metrics_row
from studies import SPACE, Driver, states


class Lines:
    """A search's events as (event, trial) pairs, an end with its state and error."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, ...]] = []

    def began(self, *, remaining: int, concurrent: int) -> None: ...

    def started(self, proposal: Proposal) -> None:
        self.lines.append(("started", proposal.name))

    def warned(self, proposal: Proposal, text: str) -> None:
        self.lines.append(("warned", proposal.name, text))

    def training(
        self, proposal: Proposal, step: int, seconds_per_step: float, seconds_left: float
    ) -> None: ...

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None: ...

    def ended(self, proposal: Proposal, state: str, found: Mapping[str, Any]) -> None:
        self.lines.append((state, proposal.name, found.get("error", "")))

    def stopped(self, proposal: Proposal, where: str) -> None:
        self.lines.append(("stopped", proposal.name, where))


def check(experiment: Experiment) -> int:
    """All can be trained, with 10 bytes for each image of a batch."""
    return 10 * experiment.optim.batch_size


def test_what_the_check_finds_fails_or_ends_a_trial_before_it_starts(experiment: Experiment) -> None:
    def strict(experiment: Experiment) -> int | None:
        if experiment.optim.batch_size == 1:
            raise ValueError("data.root: there is no such folder")
        return None if experiment.optim.batch_size == 2 else check(experiment)

    known = tuple({"optim.batch_size": size} for size in (1, 2, 3))
    search = Search(space={"optim.batch_size": integers(1, 8)}, trials=3, known=known)
    driver, listener = Driver(experiment, search), Lines()
    small_runs.write_finished_run(driver.folder.run("trial-0001"))
    running = RunningTrials(experiment, search, driver.folder, driver.trials, listener, strict)
    trial = running.propose("tune's id")
    assert trial is not None
    assert trial["memory"] == 30
    assert states(driver.trials.all()) == ["FAIL", "COMPLETE", "RUNNING"]
    error = "data.root: there is no such folder"
    assert driver.trials.all()[0].user_attrs["error"] == error
    assert [line for line in listener.lines if line[0] != "started"] == [
        ("failed", "trial-0000", error),
        ("complete", "trial-0001", ""),
    ]


def test_values_that_do_not_go_together_fail_their_trial_and_not_the_search(experiment: Experiment) -> None:
    experiment = config.replace(experiment, {"contrast.memory": "pixel"})
    space = {"contrast.memory": choice("none", "pixel"), "contrast.anchors_per_class": integers(1, 50)}
    known = ({"contrast.memory": "none", "contrast.anchors_per_class": 1}, {"contrast.memory": "none"})
    search = Search(space=space, trials=2, known=known)
    check_space(search, experiment)
    driver, listener = Driver(experiment, search), Lines()
    running = RunningTrials(experiment, search, driver.folder, driver.trials, listener, check)
    trial = running.propose("tune's id")
    assert trial is not None
    settings = config.from_json(trial["experiment"])
    assert (settings.run.name, settings.contrast.memory) == ("trial-0001", "none")
    assert running.propose("another") is None
    assert states(driver.trials.all()) == ["FAIL", "RUNNING"]
    error = driver.trials.all()[0].user_attrs["error"]
    assert error.startswith("contrast.anchors_per_class is 1 and no memory is used")
    assert listener.lines == [
        ("started", "trial-0000"),
        ("failed", "trial-0000", error),
        ("started", "trial-0001"),
    ]


def test_a_trial_s_paths_are_those_of_the_search_s_driver(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process works in a folder of Ray's own. In a job a relative one fails it."""
    monkeypatch.chdir(tmp_path)
    experiment = config.replace(experiment, {"data.root": "/data"})
    arms = {"mine": {"model.weights": "mine.pth"}, "random": {}}
    search = Search(arms=arms, seeds=(0, 1))
    driver, listener = Driver(experiment, search, arms), Lines()
    running = RunningTrials(experiment, search, driver.folder, driver.trials, listener, check)
    trial = running.propose("a")
    assert trial is not None
    assert config.from_json(trial["experiment"]).model.weights == f"{tmp_path}/mine.pth"
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert running.propose("b") is not None
    assert running.propose("c") is not None
    assert states(driver.trials.all()) == ["RUNNING", "RUNNING", "FAIL", "RUNNING"]
    assert "model.weights is 'mine.pth', a relative path" in driver.trials.all()[2].user_attrs["error"]


def test_a_trial_whose_run_another_driver_still_has_may_be_retried(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the lock of a crashed node, which its file server lets go later; a search that stops leaves it."""
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)

    def attempt(stopped_by: int | None) -> tuple[str | None, bool]:
        return _attempt(experiment, 0, _Reports(experiment), lambda: stopped_by)

    with lock.held(open_storage(experiment), what="run street"):
        reason, final = attempt(None)
        with pytest.raises(Interrupted, match="run street is running already"):
            attempt(signal.SIGTERM)
    assert reason is not None
    assert reason.startswith("run street is running already")
    assert not final


class Request:
    """A request to stop that nobody hears: there is no Ray."""

    name = "a request"

    def __init__(self) -> None:
        self.signals: list[int] = []

    def ask(self, signal: int) -> None:
        self.signals.append(signal)


def running_trials(
    experiment: Experiment, driver: Driver, listener: SearchListener
) -> tuple[RunningTrials, Request]:
    """Three of the five trials that are asked for, as Tune sees them: a, b and c."""
    search = Search(space=SPACE, trials=5)
    running = RunningTrials(experiment, search, driver.folder, driver.trials, listener, check)
    running.request = request = Request()  # type: ignore[assignment]
    for tune_id in "abc":
        assert running.propose(tune_id) is not None
    return running, request


def test_what_runs_when_a_search_is_stopped_stays_unfinished_and_goes_on_first(
    experiment: Experiment,
) -> None:
    """One leaves a checkpoint, one's process dies meanwhile, one has got no place yet."""
    driver, listener, noted = Driver(experiment, Search(space=SPACE, trials=5)), Lines(), Noted()
    running, request = running_trials(experiment, driver, listener)
    end = Deadline(running, noted)
    assert not end.reached()
    assert not running.stopping

    noted.signal = signal.SIGTERM
    assert not end.reached()
    assert running.stopping
    assert running.propose("d") is None
    assert running.report("a", {"stopped": " with a checkpoint at step 7"}) is False
    running.died("b")
    assert not end.reached()
    running.withdraw("c")
    assert end.reached()
    assert request.signals == [signal.SIGTERM]
    assert states(driver.trials.all()) == ["RUNNING"] * 3
    assert listener.lines[3:] == [("stopped", "trial-0000", " with a checkpoint at step 7")]

    driver.die()
    trials = Driver(experiment, Search(space=SPACE, trials=5)).trials
    names = [proposal.name for proposal in iter(trials.next, None)]
    assert names == [f"trial-{number:04}" for number in range(5)]


def test_a_trial_that_fails_for_good_or_finishes_while_the_search_stops_is_recorded(
    experiment: Experiment,
) -> None:
    driver, noted = Driver(experiment, Search(space=SPACE, trials=5)), Noted()
    running, _ = running_trials(experiment, driver, Lines())
    noted.signal = signal.SIGINT
    assert not Deadline(running, noted).reached()
    running.report("a", {"finished": False, "failures": ["the loss of step 2 is nan"]})
    assert states(driver.trials.all()) == ["FAIL", "RUNNING", "RUNNING"]


def test_a_trial_that_does_not_stop_is_not_waited_for_for_ever(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, noted = Driver(experiment, Search(space=SPACE, trials=5)), Noted()
    running, _ = running_trials(experiment, driver, Lines())
    noted.signal = signal.SIGINT
    end = Deadline(running, noted)
    assert not end.reached()
    monkeypatch.setattr("pixelcontrast.cluster.tune.running._STOP_S", 0.0)
    assert end.reached()
    assert states(driver.trials.all()) == ["RUNNING"] * 3


def test_what_a_trial_warns_of_is_told_while_it_trains(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    driver, listener = Driver(experiment, Search(space=SPACE, trials=5)), Lines()
    running, _ = running_trials(experiment, driver, listener)
    slow = "run.precision is bfloat16, but this CPU has no instructions for it"
    assert running.report("b", {"warning": slow}) is False
    assert listener.lines[3:] == [("warned", "trial-0001", slow)]
    assert states(driver.trials.all()) == ["RUNNING"] * 3
    lines = _Lines()
    for number in (1, 2):
        lines.warned(Proposal(number=number, name=f"trial-000{number}", overrides={}), slow)
    assert capsys.readouterr().out.splitlines() == [
        f"trial-0001  warning: {slow}",
        "trial-0002  warning: as trial-0001: run.precision is bfloat16, but this CPU has no …",
    ]


def test_a_trial_says_early_how_long_it_takes(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = Driver(experiment, Search(space=SPACE, trials=5))
    running, _ = running_trials(experiment, driver, _Lines())
    capsys.readouterr()
    assert running.report("a", {"step": 40, "seconds_per_step": 12.25, "seconds_left": 4410.0}) is False
    shown = capsys.readouterr().out
    assert shown == "trial-0000  step 40  12.25 s a step, 1 h 13 min left without evaluations\n"


def test_a_trial_that_waits_for_a_place_says_so_and_stays_unfinished_when_stopped(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    driver, listener = Driver(experiment, Search(space=SPACE, trials=5)), Lines()
    running, _ = running_trials(experiment, driver, listener)
    for report in ({"waiting": "the cluster has 0 CPUs free now"}, {"stopped": ""}):
        assert running.report("a", report) is False
    assert states(driver.trials.all()) == ["RUNNING"] * 3
    assert listener.lines[3:] == [("stopped", "trial-0000", "")]
    assert "trial-0000 waits for a place: the cluster has 0 CPUs free now" in caplog.text


def test_what_a_search_can_do_without_does_not_end_it(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The bucket fails when the study is copied."""
    driver, listener = Driver(experiment, Search(space=SPACE, trials=5)), Lines()
    running, _ = running_trials(experiment, driver, listener)

    def fail(*_: Any) -> None:
        raise OSError("When uploading to bucket 'runs': AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(driver.folder, "sync", fail)
    running.report("a", {"finished": False, "failures": ["its disk is full"]})
    assert states(driver.trials.all()) == ["FAIL", "RUNNING", "RUNNING"]
    assert listener.lines[3:] == [("failed", "trial-0000", "its disk is full")]
    assert running.failure is None
    assert "AWS Error NETWORK_CONNECTION; the search goes on without" in caplog.text


def test_a_study_that_fails_for_good_stops_the_trials_with_a_checkpoint(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver, listener = Driver(experiment, Search(space=SPACE, trials=5)), Lines()
    running, request = running_trials(experiment, driver, listener)
    end = Deadline(running, Noted())
    assert not end.reached()

    def fail(*_: Any) -> None:
        raise StorageInternalError("during the commit") from ConnectionError("gone\nat 10.0.0.1")

    monkeypatch.setattr(driver.trials, "report", fail)
    assert running.report("a", {"step": 100, "miou": 0.5}) is False
    assert running.propose("d") is None
    assert not end.reached()
    assert request.signals == [signal.SIGTERM]
    assert "The search cannot go on: ConnectionError: gone. Stopping all" in caplog.text
    for tune_id in "abc":
        running.report(tune_id, {"stopped": " with a checkpoint at step 100"})
    assert end.reached()
    assert states(driver.trials.all()) == ["RUNNING"] * 3
    assert [line[0] for line in listener.lines[3:]] == ["stopped"] * 3


def test_a_storage_that_fails_stops_the_search_and_fails_no_trial(experiment: Experiment) -> None:
    reason = "run.storage: /runs cannot be written: No space left on device"

    def full(_: Experiment) -> int:
        raise StorageError(reason)

    search = Search(space=SPACE, trials=3)
    driver = Driver(experiment, search)
    running = RunningTrials(experiment, search, driver.folder, driver.trials, Lines(), full)
    assert running.propose("a") is None
    assert running.failure is not None
    assert describe_failure(running.failure) == reason
    assert states(driver.trials.all()) == ["RUNNING"]


@pytest.mark.parametrize("dies", ["before the evaluation", "in its record", "before the end"])
def test_a_resumed_trial_that_is_due_to_be_stopped_is_not_started(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """Its driver died before it took the evaluation, or before it recorded that the trial was stopped."""
    search, listener = Search(space=SPACE, trials=3, grace=0.25), Lines()
    first = Driver(experiment, search)
    for miou in (0.9, 0.8):
        proposal = first.trials.next()
        assert proposal is not None
        first.trials.report(proposal.number, 100, miou)
        first.end(proposal.number, miou)
    assert first.trials.next() is not None
    if dies == "in its record":
        with monkeypatch.context() as patch:
            patch.setattr("optuna.Trial.report", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                first.trials.report(2, 100, 0.1)
    if dies == "before the end":
        assert first.trials.report(2, 100, 0.1)
    first.die()
    write_rows(first.folder.run("trial-0002"), [metrics_row(100, "eval")])
    second = Driver(experiment, search)
    running = RunningTrials(experiment, search, second.folder, second.trials, listener, check)
    assert running.propose("a") is None
    assert states(second.trials.all()) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [line[:2] for line in listener.lines] == [("started", "trial-0002"), ("pruned", "trial-0002")]
