"""Proposals and their record in a real Optuna study; no Ray, and no training."""

import json
import random
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner

from pixelcontrast import Experiment, Search, config, integers, loguniform, uniform
from pixelcontrast.search.settings import Objective, arms_of, check_space
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


def test_what_is_proposed_does_not_depend_on_how_many_trials_are_asked_for(
    experiment: Experiment, tmp_path: Path
) -> None:
    def proposals(storage: str, asked: list[int]) -> list[dict[str, Any]]:
        settings, found = config.replace(experiment, {"run.storage": str(tmp_path / storage)}), []
        for number in asked:
            driver = Driver(settings, Search(space=SPACE, trials=number))
            while (proposal := driver.trials.next()) is not None:
                found.append(proposal.overrides)
                driver.end(proposal.number, miou_of(proposal.overrides))
            driver.die()
        return found

    assert proposals("once", [32]) == proposals("twice", [8, 32])


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


@pytest.mark.parametrize(("evaluated_every", "factor"), [(50, 2), (100, 3), (200, 2)])
def test_trials_are_stopped_as_by_optuna_s_pruner(
    experiment: Experiment, evaluated_every: int, factor: int
) -> None:
    """Also where an evaluation passes several rungs, and several have the same mIoU."""
    search = Search(space=SPACE, trials=20, known=(), grace=0.125, reduction_factor=factor)
    driver = Driver(experiment, search)
    pruner = SuccessiveHalvingPruner(min_resource=50, reduction_factor=factor)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    draws = random.Random(0)
    stopped = []
    for _ in range(20):
        proposal, trial = driver.trials.next(), study.ask()
        assert proposal is not None
        for step in range(evaluated_every, STEPS, evaluated_every):
            miou = round(draws.random(), 1)
            trial.report(miou, step)
            stopped.append(driver.trials.report(proposal.number, step, miou))
            assert stopped[-1] is trial.should_prune()
            if stopped[-1]:
                break
    assert {True, False} == set(stopped)


def test_the_experiment_s_own_values_are_never_stopped_wherever_they_stand(experiment: Experiment) -> None:
    """They are the baseline of reports; another point that comes first is like all others."""
    cool = {"contrast.temperature": 0.07}
    for known, stopped in ((({}, cool), 1), ((cool, {}), 0), ((), 0)):
        settings = config.replace(experiment, {"run.name": f"known-{len(known)}-{stopped}"})
        driver = Driver(settings, Search(space=SPACE, trials=4, known=known))
        for _ in range(3):
            driver.trials.next()
        assert not driver.trials.report(2, 200, 0.9)
        assert driver.trials.report(stopped, 200, 0.1)
        assert driver.trials.report(1 - stopped, 200, 0.2) is (not known)


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


def test_a_range_of_whole_numbers_is_another_than_one_of_real_ones(experiment: Experiment) -> None:
    Driver(experiment, Search(space={"contrast.weight": integers(1, 10)}, trials=2)).die()
    with pytest.raises(ValueError, match=r"search\.space was .*'low': 1,.* and is now .*'low': 1\.0"):
        Driver(experiment, Search(space={"contrast.weight": uniform(1, 10)}, trials=2))


@pytest.mark.parametrize(
    ("objective", "key", "value"),
    [
        ("miou", "run.eval_interval", 50),
        ("seconds_per_step", "run.device", "cuda"),
        ("seconds_per_step", "run.cpus_per_worker", 4),
        ("seconds_per_step", "run.compile", True),
    ],
)
def test_what_decides_times_and_early_stops_may_not_change_where_they_count(
    experiment: Experiment, objective: Objective, key: str, value: Any
) -> None:
    changed = config.replace(experiment, {key: value})
    for name in ("miou", "seconds_per_step"):
        search = Search(space=SPACE, trials=2, objectives=(name,), name=name)
        Driver(experiment, search).die()
        if name == objective:
            with pytest.raises(ValueError, match=rf"{key} was .* and is now {value!r}"):
                Driver(changed, search)
        else:
            Driver(changed, search).die()


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
