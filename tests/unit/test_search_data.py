"""A search is resumed on the data that its runs were trained on, wherever they lie. Ray is not started."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from pixelcontrast import Experiment, Search, config
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.tune import search as tune
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.runs.checkpoint import names
from pixelcontrast.runs.run_folder import add_attempt
from pixelcontrast.training.origin import describe_data
from searches import experiment
from small_runs import attempt_row, write_finished_run
from studies import SPACE, Driver

ARMS = {"ce": {"contrast.weight": 0.0}, "cool": {"contrast.temperature": 0.07}}


class NoRayError(LaunchError):
    """The search would have started its trials."""


@pytest.fixture
def settings(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    monkeypatch.setattr(tune, "connect", Mock(side_effect=NoRayError("no Ray")))
    return experiment(root, tmp_path / "runs")


def begin(settings: Experiment, search: Search, arms: dict | None) -> Path:
    """A search of which the first trial has ended; returns the folder of its run."""
    driver = Driver(settings, search, arms)
    proposal = driver.trials.next()
    assert proposal is not None
    run = write_finished_run(driver.folder.run(proposal.name), settings)
    sets = (build_dataset(settings.data, split) for split in ("train", "val"))
    add_attempt(run, attempt_row(settings) | {"attempt": 2} | describe_data(*sets))
    driver.end(proposal.number, 0.5)
    driver.die()
    return Path(run.path())


@pytest.mark.parametrize("arms", [None, ARMS])
def test_a_search_is_not_resumed_on_other_data(
    settings: Experiment, tmp_path: Path, arms: dict | None
) -> None:
    search = Search(space=SPACE, arms=ARMS, trials=2, seeds=(0, 1))
    run = begin(settings, search, arms)
    moved = tmp_path / "moved"
    (tmp_path / "scenes").rename(moved)
    settings = config.replace(settings, {"data.root": str(moved)})
    with pytest.raises(NoRayError):
        tune.run_search(settings, search, arms=arms, listener=Mock())
    image = next((moved / "leftImg8bit" / "val").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"0")
    other = rf"data\.root {moved}: the val images .* run {run.name} began with .* another --name$"
    with pytest.raises(ValueError, match=other):
        tune.run_search(settings, search, arms=arms, listener=Mock())


def test_data_that_were_mended_may_be_others_where_nothing_was_trained(
    settings: Experiment,
) -> None:
    search = Search(space=SPACE, trials=1)
    driver = Driver(settings, search)
    driver.trials.next()
    run = driver.folder.run("trial-0000")
    add_attempt(run, attempt_row() | {"data": {"train": "0", "val": "1"}})
    driver.trials.fail(0, "a.png cannot be read")
    driver.die()
    assert not names(run)
    with pytest.raises(NoRayError):
        tune.run_search(settings, search, listener=Mock())
