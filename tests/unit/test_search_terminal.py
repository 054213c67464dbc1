"""What searches and comparisons show at the terminal when they end, and with which status."""

import html
import re
from typing import Any

import pytest

from pixelcontrast import Experiment, Search
from pixelcontrast.cli.search import search_space, study_arms
from pixelcontrast.cli.tables import show_arms, show_best
from pixelcontrast.cluster.train.progress import print_evaluation
from pixelcontrast.reports.arms_page import arms_page
from pixelcontrast.search.folder import SearchFolder
from search_records import ARMS, record, trial
from studies import SPACE, Driver

SUMMARY = {"last_miou": 0.5, "seconds_per_step": 1.0, "checkpoint": "checkpoints/step-00000400"}


def test_the_best_are_those_of_the_objective(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [trial(0, (5.0,), 0.9), trial(1, (0.1,), 0.3), trial(2, (1.0,), 0.5)]
    show_best(record(experiment, trials, ("seconds_per_step",)))
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["trial-0001", "trial-0002", "trial-0000"]
    assert "best network /runs/street-search/trial-0001/checkpoints/step-00000004/model" in shown


def test_of_two_objectives_the_pareto_front_is_shown(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [trial(0, (0.9, 5.0), 0.9), trial(1, (0.3, 0.1), 0.3), trial(2, (0.2, 1.0), 0.2)]
    show_best(record(experiment, trials, ("miou", "seconds_per_step")))
    shown = capsys.readouterr().out
    assert "trial-0000" in shown
    assert "trial-0001" in shown
    assert "trial-0002" not in shown
    assert "best network" not in shown


def test_names_of_classes_stand_as_they_are(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich would leave out ``[old]``, draw ``:car:`` and fail at ``[/b]``."""
    iou: dict[str, float | None] = {"road [old]": 0.5, "a [/b]": 0.4, ":car:": 0.3}
    trials = [trial(number, (0.5,), 0.5, arm=arm, seed=0, iou=iou) for number, arm in enumerate(ARMS)]
    show_arms(record(experiment, trials, ("miou",)))
    shown = capsys.readouterr().out
    print_evaluation({"miou": 0.5, "pixel_accuracy": 0.5, "iou": iou})
    for text in (shown, capsys.readouterr().out):
        assert all(name in text for name in iou)


def test_tables_by_class_say_how_many_seeds_they_are_of(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = ARMS
    runs = ((first, 0), (first, 1), (second, 1))
    trials = [
        trial(number, (0.5,), 0.5, arm=arm, seed=seed, iou={"road": 0.5})
        for number, (arm, seed) in enumerate(runs)
    ]
    show_arms(record(experiment, trials, ("miou",)))
    assert re.search(r"class +2 seeds +1 seed +1 seed\n", capsys.readouterr().out)


def test_a_class_with_fewer_seeds_than_its_arm_says_how_many(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folders of cool's seeds 1 and 2 are gone, and ce has no bus on seed 0."""
    first, second, *_ = ARMS
    trials = []
    for seed in range(4):
        bus = None if seed == 0 else 0.4
        trials.append(trial(2 * seed, (0.5,), 0.5, arm=first, seed=seed, iou={"road": 0.5, "bus": bus}))
        iou = {} if seed in (1, 2) else {"road": 0.6, "bus": 0.6}
        trials.append(trial(2 * seed + 1, (0.6,), 0.6, arm=second, seed=seed, iou=iou))
    found = record(experiment, trials, ("miou",))
    show_arms(found)
    shown = " ".join(capsys.readouterr().out.split())
    page = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", arms_page(found, written=0.0))).split())
    for text in (shown, page):
        assert "road 50.0 ± 0.0 60.0 ± 0.0 (n = 2) +10.0 (n = 2)" in text
        assert "bus 40.0 ± 0.0 (n = 3) 60.0 ± 0.0 (n = 2) +20.0 (n = 1)" in text
        assert (
            "Without IoU of classes: trial-0003, trial-0005. The study has the mIoU; the run's folder" in text
        )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials end without Ray: those of ``ce`` and trial-0001 are complete, all others fail."""

    def run(experiment: Experiment, search: Search, *, arms: Any = None, listener: Any) -> SearchFolder:
        del listener
        driver = Driver(experiment, search, arms)
        while (proposal := driver.trials.next()) is not None:
            if proposal.name.startswith("ce") or proposal.name == "trial-0001":
                driver.trials.note(proposal.number, SUMMARY)
                driver.end(proposal.number, 0.5)
            else:
                driver.trials.fail(proposal.number, "worker 1 died")
        driver.die()
        return driver.folder

    monkeypatch.setattr("pixelcontrast.training.check_inputs", lambda _: None)
    monkeypatch.setattr("pixelcontrast.cluster.tune.search.run_search", run)


@pytest.mark.usefixtures("failing")
def test_a_search_in_which_every_trial_has_failed_ends_with_status_1(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "trial-0000 failed: worker 1 died\n1 trial failed. Rerun the command to try again.\n"
    with pytest.raises(SystemExit) as ended:
        search_space(experiment, Search(space=SPACE, trials=1))
    assert ended.value.code == 1
    assert capsys.readouterr().err == told
    search_space(experiment, Search(space=SPACE, trials=2))  # the second trial is complete
    assert capsys.readouterr().err == told


@pytest.mark.usefixtures("failing")
def test_a_comparison_ends_with_the_errors_of_the_arms_that_were_asked_for(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(arms=ARMS, seeds=(0,))
    with pytest.raises(SystemExit) as ended:
        study_arms(experiment, search, ())
    assert ended.value.code == 1
    assert "cool-s0 failed: worker 1 died\n1 trial failed. Rerun" in capsys.readouterr().err
    study_arms(experiment, search, ("ce",))
