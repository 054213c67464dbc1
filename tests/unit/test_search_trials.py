"""Proposals and their record in a real Optuna study; no Ray, and no training."""

import json
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from pyarrow import fs

from pixelcontrast import Experiment, Search, config, loguniform
from pixelcontrast.runs import lock
from pixelcontrast.search.settings import arms_of, check_space
from pixelcontrast.search.trials import _suggest
from studies import SPACE, STEPS, Driver, states


def miou_of(overrides: dict[str, Any]) -> float:
    """A smooth thing to search: best at τ = 0.1."""
    return 1 - abs(overrides["contrast.temperature"] - 0.1)


def test_the_experiment_s_own_values_come_first_then_as_many_as_asked(experiment: Experiment) -> None:
    search = Search(space=SPACE, trials=6, known=({}, {"contrast.temperature": 0.07}))
    check_space(search, experiment)
    driver = Driver(experiment, search)
    proposals = []
    while (proposal := driver.trials.next()) is not None:
        proposals.append(proposal)
        driver.end(proposal.number, miou_of(proposal.overrides))
    assert [proposal.name for proposal in proposals] == [f"trial-{number:04}" for number in range(6)]
    own = config.flatten(experiment)
    assert proposals[0].overrides == {key: own[key] for key in SPACE}
    assert proposals[1].overrides == proposals[0].overrides | {"contrast.temperature": 0.07}
    for proposal in proposals:
        assert all(proposal.overrides[key] in dimension for key, dimension in SPACE.items())
        config.replace(experiment, proposal.overrides)
    assert len({json.dumps(proposal.overrides) for proposal in proposals}) == 6


def test_a_search_that_dies_proposes_what_it_would_have_proposed(
    experiment: Experiment, tmp_path: Path
) -> None:
    def proposals(storage: str, lives: list[int]) -> list[dict[str, Any]]:
        settings, found = config.replace(experiment, {"run.storage": str(tmp_path / storage)}), []
        for trials in lives:
            driver = Driver(settings, Search(space=SPACE, trials=12))
            for _ in range(trials):
                proposal = driver.trials.next()
                assert proposal is not None
                found.append(proposal.overrides)
                driver.end(proposal.number, miou_of(proposal.overrides))
            driver.die()
        return found

    assert proposals("once", [12]) == proposals("thrice", [1, 4, 7])


def test_running_trials_of_a_dead_driver_go_on_first_and_the_number_is_kept(experiment: Experiment) -> None:
    search = Search(space=SPACE, trials=5)
    first = Driver(experiment, search)
    handed = [first.trials.next() for _ in range(3)]
    assert handed[1] is not None
    first.trials.report(handed[1].number, 100, 0.25)
    assert handed[0] is not None
    first.end(handed[0].number, 0.5)
    first.die()

    second = Driver(experiment, search)
    assert second.trials.remaining == 4
    again = [second.trials.next() for _ in range(5)]
    assert again[:2] == handed[1:]
    assert [proposal and proposal.number for proposal in again] == [1, 2, 3, 4, None]
    for proposal in again[:4]:
        assert proposal is not None
        assert not second.trials.report(proposal.number, 100, 0.9)  # of trial 1 it is there already
        second.end(proposal.number, 0.5)
    trials = second.trials.all()
    assert states(trials) == ["COMPLETE"] * 5
    assert trials[1].intermediate_values == {100: 0.25, STEPS: 0.5}
    second.die()
    assert Driver(experiment, search).trials.next() is None


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("drawn", range(len(SPACE)))
@pytest.mark.parametrize("number", [0, 8])
def test_a_trial_whose_driver_died_while_asking_gets_what_it_would_have_got(
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: Literal["tpe", "random"],
    drawn: int,
    number: int,
) -> None:
    search = Search(space=SPACE, trials=12, known=(), sampler=sampler)

    def after(number: int, storage: str) -> Driver:
        """A driver that has seen ``number`` trials end."""
        driver = Driver(config.replace(experiment, {"run.storage": str(tmp_path / storage)}), search)
        for _ in range(number):
            proposal = driver.trials.next()
            assert proposal is not None
            driver.end(proposal.number, miou_of(proposal.overrides))
        return driver

    whole = after(number, "whole").trials.next()
    dying = after(number, "cut")
    counted = iter(range(drawn))

    def dies(*of: Any) -> Any:
        if next(counted, None) is None:
            raise KeyboardInterrupt
        return _suggest(*of)

    with monkeypatch.context() as patch:
        patch.setattr("pixelcontrast.search.trials._suggest", dies)
        with pytest.raises(KeyboardInterrupt):
            dying.trials.next()
    dying.die()
    assert len(dying.trials.all()[-1].params) == drawn
    assert after(0, "cut").trials.next() == whole


@pytest.mark.parametrize("seed", [4295, 2**31 - 1])
def test_any_seed_that_a_search_may_have_proposes(experiment: Experiment, seed: int) -> None:
    assert Driver(experiment, Search(space=SPACE, trials=1, known=(), seed=seed)).trials.next() is not None


def test_trials_that_are_behind_are_stopped_at_the_rungs_and_only_there(experiment: Experiment) -> None:
    driver = Driver(experiment, Search(space=SPACE, trials=8, grace=0.25, reduction_factor=2))
    stopped = {}
    for rank, miou in enumerate([0.5, 0.6, 0.4, 0.3, 0.7]):
        proposal = driver.trials.next()
        assert proposal is not None
        assert not driver.trials.report(proposal.number, 50, 0.0)  # within the grace
        stopped[rank] = driver.trials.report(proposal.number, 100, miou)
        if stopped[rank]:
            driver.trials.prune(proposal.number)
        else:
            driver.end(proposal.number, miou)
    assert stopped == {0: False, 1: False, 2: True, 3: True, 4: False}
    trials = driver.trials.all()
    assert states(trials) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert trials[2].intermediate_values == {50: 0.0, 100: 0.4}


def test_the_first_known_point_is_trained_to_its_end_as_the_baseline(experiment: Experiment) -> None:
    for known, stopped in ((({},), False), ((), True)):
        settings = config.replace(experiment, {"run.name": f"known-{len(known)}"})
        driver = Driver(settings, Search(space=SPACE, trials=4, known=known))
        driver.trials.next()
        driver.trials.next()
        assert not driver.trials.report(1, 200, 0.9)
        assert driver.trials.report(0, 200, 0.1) is stopped


def test_a_failed_trial_has_its_reason_and_the_search_goes_on(experiment: Experiment) -> None:
    driver = Driver(experiment, Search(space=SPACE, trials=2))
    driver.trials.next()
    driver.trials.fail(0, "worker 1 died: out of memory")
    proposal = driver.trials.next()
    assert proposal is not None
    assert proposal.number == 1
    failed = driver.trials.all()[0]
    assert (failed.state.name, failed.user_attrs["error"]) == ("FAIL", "worker 1 died: out of memory")


def test_two_objectives_are_both_in_the_study_and_nothing_is_stopped(experiment: Experiment) -> None:
    search = Search(space=SPACE, trials=4, objectives=("miou", "seconds_per_step"))
    assert not search.stops_early
    driver = Driver(experiment, search)
    for number, (miou, seconds) in enumerate([(0.5, 2.0), (0.4, 1.0), (0.3, 3.0)]):
        driver.trials.next()
        assert not driver.trials.report(number, 100, 0.0)
        driver.trials.complete(number, {"miou": miou, "seconds_per_step": seconds})
    assert sorted(trial.number for trial in driver.trials.study.best_trials) == [0, 1]


def test_another_search_under_the_name_is_refused_and_more_trials_are_not(experiment: Experiment) -> None:
    search = Search(space=SPACE, trials=2)
    Driver(experiment, search).die()
    Driver(experiment, Search(space=SPACE, trials=9, max_concurrent=1)).die()
    other = Search(space=SPACE | {"contrast.temperature": loguniform(0.05, 0.5)}, trials=2)
    with pytest.raises(ValueError, match=r"search\.space was .*0\.03.* and is now .*0\.05"):
        Driver(experiment, other)
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.01 and is now 0\.1"):
        Driver(config.replace(experiment, {"optim.lr": 0.1}), search)


def test_a_search_that_runs_already_is_not_started_twice(experiment: Experiment) -> None:
    search = Search(space=SPACE, trials=2)
    first = Driver(experiment, search)
    with pytest.raises(ValueError, match="street-search is running already"):
        Driver(experiment, search)
    first.die()
    Driver(experiment, search)


def test_arms_run_on_the_same_seeds_and_more_of_both_may_come(experiment: Experiment) -> None:
    arms = {"ce": {"contrast.weight": 0.0}, "contrast": {}}
    search = Search(arms={"cool": {"contrast.temperature": 0.07}} | arms, seeds=(0, 1))
    first = Driver(experiment, search, arms_of(search, experiment, ("ce", "contrast")))
    names = []
    while (proposal := first.trials.next()) is not None:
        names.append(proposal.name)
        assert proposal.overrides["run.seed"] == int(proposal.name[-1])
        first.end(proposal.number, 0.5)
    assert names == ["ce-s0", "contrast-s0", "ce-s1", "contrast-s1"]
    first.die()

    more = Search(arms=search.arms, seeds=(0, 1, 4))
    second = Driver(experiment, more, arms_of(more, experiment))
    assert second.trials.remaining == 5
    added = [second.trials.next() for _ in range(5)]
    names = [proposal and proposal.name for proposal in added]
    assert names == ["cool-s0", "cool-s1", "cool-s4", "ce-s4", "contrast-s4"]
    written = json.loads(second.folder.storage.read("search.json"))
    assert list(written["arms"]) == ["cool", "ce", "contrast"]
    second.die()
    changed = Search(arms=dict(search.arms) | {"ce": {"contrast.weight": 0.0, "optim.lr": 0.1}})
    with pytest.raises(ValueError, match=r"search\.arms\.ce was"):
        Driver(experiment, changed, arms_of(changed, experiment))


def test_a_database_is_taken_instead_of_the_journal(experiment: Experiment, tmp_path: Path) -> None:
    search = Search(space=SPACE, trials=1, study=f"sqlite:///{tmp_path}/study.db")
    driver = Driver(experiment, search)
    driver.trials.next()
    driver.end(0, 0.5)
    driver.die()
    assert states(driver.folder.trials()) == ["COMPLETE"]
    assert not (tmp_path / "street-search" / "study.journal").exists()
    with pytest.raises(ValueError, match=r"--study nosuch://x cannot be opened"):
        Driver(config.replace(experiment, {"run.name": "b"}), Search(space=SPACE, study="nosuch://x"))


def test_searches_of_two_folders_are_not_mixed_in_one_database(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Neither while the first has not begun, when a start that fails would delete its study, nor later."""
    search = Search(space=SPACE, trials=2, study=f"sqlite:///{tmp_path}/study.db")
    here, other = tmp_path / "street-search", tmp_path / "other" / "street-search"
    elsewhere = config.replace(experiment, {"run.storage": str(tmp_path / "other")})
    first = Driver(experiment, search)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"a study street-search already, .* {here}; .* is {other}\. "):
            Driver(elsewhere, search)
        assert not (other / "search.json").exists()
        first.trials.next()
    assert states(first.trials.all()) == ["RUNNING", "RUNNING"]
    first.die()
    again = config.replace(experiment, {"run.storage": f"{tmp_path}/other/.."})
    assert Driver(again, search).trials.remaining == 2


def test_a_study_that_names_no_folder_is_taken_and_names_it_then(
    experiment: Experiment, tmp_path: Path
) -> None:
    """As earlier versions made them."""
    search = Search(space=SPACE, trials=2, study=f"sqlite:///{tmp_path}/study.db")
    optuna.create_study(study_name="street-search", storage=search.study, direction="maximize")
    driver = Driver(experiment, search)
    assert driver.trials.study.user_attrs == {"folder": str(tmp_path / "street-search")}


def test_a_study_in_an_object_store_is_taken_up_on_another_machine(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    (tmp_path / "bucket" / "street-search" / ".claims").mkdir(parents=True)

    class Buckets:
        @staticmethod
        def from_uri(uri: str) -> tuple[fs.FileSystem, str]:
            return bucket, uri.partition("://")[2]

    monkeypatch.setattr(fs, "FileSystem", Buckets)
    monkeypatch.setattr(lock, "_RENEW_S", 600.0)  # the first driver is as dead,
    monkeypatch.setattr(lock, "_LEASE_S", 0.1)  # and known to be
    remote = config.replace(experiment, {"run.storage": "mock://bucket"})
    search = Search(space=SPACE, trials=3)

    monkeypatch.setenv("HOME", str(tmp_path / "first"))
    driver = Driver(remote, search)
    driver.trials.next()
    driver.end(0, 0.5)
    driver.folder.sync()  # as after each trial
    driver.trials.next()

    monkeypatch.setenv("HOME", str(tmp_path / "second"))
    driver = Driver(remote, search)
    assert states(driver.trials.all()) == ["COMPLETE"]
    assert (tmp_path / "bucket" / "street-search" / "study.journal").exists()
