"""Failed trials are tried again when their command is rerun, and arms that have only failed may change."""

import json
from contextlib import nullcontext
from typing import Any

import pytest

from pixelcontrast import Experiment, Search, config
from pixelcontrast.search.reading import read_search
from pixelcontrast.search.settings import arms_of
from studies import SPACE, Driver, states

ARMS: dict[str, dict[str, Any]] = {"ce": {"contrast.weight": 0.0}, "cool": {"contrast.temperature": 0.07}}


def compare(
    experiment: Experiment, arms: dict[str, dict[str, Any]], seeds: tuple[int, ...] = (0, 1)
) -> Driver:
    search = Search(arms=arms, seeds=seeds)
    return Driver(experiment, search, arms_of(search, experiment))


def fail(driver: Driver, *arms: str) -> list[str]:
    """The names of all trials that are handed out; those of ``arms`` fail, the others are complete."""
    names = []
    while (proposal := driver.trials.next()) is not None:
        names.append(proposal.name)
        if proposal.name.startswith(arms):
            driver.trials.fail(proposal.number, "worker 1 died")
        else:
            driver.end(proposal.number, 0.5)
    driver.die()
    return names


def test_failed_trials_of_a_search_are_tried_again_once_a_call(experiment: Experiment) -> None:
    """In the same runs; what is proposed next is what it would have been."""
    search, longer = Search(space=SPACE, trials=3), Search(space=SPACE, trials=4)
    first = Driver(experiment, search)
    handed = [first.trials.next() for _ in range(3)]
    for number, failed in enumerate((True, False, True)):
        first.trials.fail(number, "no space left") if failed else first.end(number, 0.5)
    assert first.trials.next() is None
    first.die()

    second = Driver(experiment, longer)
    assert second.trials.remaining == 3
    again = [second.trials.next() for _ in range(4)]
    assert [trial and (trial.name, trial.overrides) for trial in again[:2]] == [
        (trial.name, trial.overrides) for trial in (handed[0], handed[2]) if trial
    ]
    assert again[2] is not None
    assert again[2].name == "trial-0003"
    assert again[3] is None
    assert again[0] is not None
    assert not second.trials.report(again[2].number, 200, 0.9)
    assert not second.trials.report(again[0].number, 200, 0.1)  # the baseline is still never stopped
    assert states(second.trials.all()) == ["RUNNING", "COMPLETE", "RUNNING", "RUNNING"]
    assert second.trials.all()[0].params == again[0].overrides
    assert read_search(second.folder.storage).trials[0].is_baseline
    second.die()
    assert [trial and trial.name for trial in iter(Driver(experiment, longer).trials.next, None)] == [
        "trial-0000",
        "trial-0002",
        "trial-0003",
    ]


def test_a_trial_that_is_tried_again_counts_once_in_early_stopping(experiment: Experiment) -> None:
    """Otherwise the more often it fails, the more of the others continue."""
    search = Search(space=SPACE, trials=5, known=(), grace=0.25)
    for _ in range(3):  # each time it comes to the same evaluations
        driver = Driver(experiment, search)
        proposal = driver.trials.next()
        assert proposal is not None
        assert not driver.trials.report(proposal.number, 100, 0.5)
        driver.trials.fail(proposal.number, "worker 1 died")
        driver.die()
    driver = Driver(experiment, search)
    again = driver.trials.next()
    assert again is not None
    assert not driver.trials.report(again.number, 100, 0.5)
    for miou, stopped in ((0.4, True), (0.6, False), (0.55, False), (0.52, True)):
        proposal = driver.trials.next()
        assert proposal is not None
        assert driver.trials.report(proposal.number, 100, miou) is stopped


def test_a_trial_that_is_tried_again_is_not_judged_again(experiment: Experiment) -> None:
    """Against those that came later it would lose where it has been let through."""
    search = Search(space=SPACE, trials=2, known=(), grace=0.25)
    first = Driver(experiment, search)
    for miou in (0.5, 0.6):
        proposal = first.trials.next()
        assert proposal is not None
        assert not first.trials.report(proposal.number, 100, miou)
    first.trials.fail(0, "worker 1 died")
    first.end(1, 0.7)
    first.die()
    second = Driver(experiment, search)
    again = second.trials.next()
    assert again is not None
    assert not second.trials.report(again.number, 100, 0.5)


def test_failed_runs_of_a_comparison_are_tried_again(experiment: Experiment) -> None:
    assert fail(compare(experiment, ARMS), "cool") == ["ce-s0", "cool-s0", "ce-s1", "cool-s1"]
    driver = compare(experiment, ARMS)
    assert driver.trials.remaining == 2
    assert fail(driver) == ["cool-s0", "cool-s1"]
    record = read_search(driver.folder.storage)
    assert [trial.state for trial in record.trials] == ["COMPLETE"] * 4
    assert compare(experiment, ARMS).trials.remaining == 0


def test_unfinished_runs_of_other_arms_and_seeds_wait_until_they_are_asked_for(
    experiment: Experiment,
) -> None:
    first = compare(experiment, ARMS)
    assert len([first.trials.next() for _ in range(4)]) == 4
    first.die()
    asked = Search(arms=ARMS, seeds=(0,))
    driver = Driver(experiment, asked, arms_of(asked, experiment, ("ce",)))
    assert driver.trials.remaining == 1
    assert fail(driver) == ["ce-s0"]
    assert fail(compare(experiment, ARMS)) == ["cool-s0", "ce-s1", "cool-s1"]


def test_an_arm_of_which_every_run_has_failed_may_be_corrected(experiment: Experiment) -> None:
    """Its runs then are others: the failed ones may have checkpoints of the settings before."""
    fail(compare(experiment, ARMS), "cool")
    corrected = ARMS | {"cool": {"contrast.temperature": 0.2}}
    driver = compare(experiment, corrected)
    proposal = driver.trials.next()
    assert proposal is not None
    assert (proposal.name, proposal.overrides["contrast.temperature"]) == ("cool-s0-1", 0.2)
    assert json.loads(driver.folder.storage.read("search.json"))["arms"] == corrected
    driver.die()
    with pytest.raises(ValueError, match=r"search\.arms\.cool was .*0\.2.* and is now .*0\.07"):
        compare(experiment, ARMS)


def test_a_search_json_that_was_deleted_is_restored(experiment: Experiment) -> None:
    """As the message about a damaged one advises: no arm is lost, and nothing may change that was trained."""
    fail(compare(experiment, ARMS))
    driver = compare(experiment, ARMS)
    driver.die()
    written = driver.folder.storage.read("search.json")
    asked = Search(arms=ARMS, seeds=(0, 1))
    changed = ARMS | {"cool": {"contrast.temperature": 0.2}}
    for start, refused in (
        (lambda: Driver(experiment, asked, arms_of(asked, experiment, ("ce",))).die(), None),
        (lambda: compare(experiment, changed), r"search\.arms\.cool was .*0\.07.* and is now .*0\.2"),
        (lambda: compare(config.replace(experiment, {"optim.lr": 0.5}), ARMS), r"optim\.lr was 0\.01 and"),
    ):
        driver.folder.storage.delete("search.json")
        with pytest.raises(ValueError, match=refused) if refused else nullcontext():
            start()
        assert driver.folder.storage.read("search.json") == written


def test_a_search_json_that_is_lost_without_a_copy_is_named(experiment: Experiment) -> None:
    """As older versions kept none."""
    driver = compare(experiment, ARMS)
    driver.trials.next()
    study = driver.trials.study
    study._storage.set_study_system_attr(study._study_id, "search.json", None)
    driver.die()
    driver.folder.storage.delete("search.json")
    with pytest.raises(ValueError, match=r"study\.journal has trials of .* has no search\.json"):
        compare(experiment, ARMS)


def test_an_arm_that_was_added_by_a_start_that_failed_is_forgotten(experiment: Experiment) -> None:
    fail(compare(experiment, ARMS))
    compare(experiment, ARMS | {"warm": {"contrast.temperature": 0.5}}).die()  # before it hands out any
    driver = compare(experiment, ARMS | {"warm": {"contrast.temperature": 0.4}})
    driver.die()
    compare(experiment, ARMS).die()
    assert json.loads(driver.folder.storage.read("search.json"))["arms"] == ARMS
