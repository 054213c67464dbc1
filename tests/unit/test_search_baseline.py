"""The first trial of a search is the experiment itself, also where a searched setting is unset in it."""

import runpy
from pathlib import Path

import pytest

from pixelcontrast import Search, choice, config, integers, loguniform
from pixelcontrast.contrast.hyperparameters import MemoryConfig
from pixelcontrast.search.own_values import outside, own_values
from pixelcontrast.search.reading import read_search
from pixelcontrast.storage import Storage
from searches import experiment, run_search

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SIZES = {"pixel_queue_size": 100, "region_memory_size": 10}
"""What they stand for with the 10 training images of the generated scenes."""


def test_an_unset_size_takes_the_value_that_it_stands_for(scenes: Path, tmp_path: Path) -> None:
    settings = config.replace(experiment(scenes, tmp_path), {"optim.steps": 2})
    space = {"optim.lr": loguniform(0.001, 0.1), "contrast.pixel_queue_size": integers(10, 500)}
    run_search(settings, Search(space=space, trials=1, name="space"))
    baseline = read_search(Storage(str(tmp_path / "space"))).baseline
    assert baseline is not None
    assert baseline.number == 0
    assert dict(baseline.overrides) == {"optim.lr": 0.01, "contrast.pixel_queue_size": 100}


@pytest.mark.parametrize("memory", ["none", "region", "both"])
def test_sizes_are_known_whichever_memory_is_used(scenes: Path, tmp_path: Path, memory: str) -> None:
    settings = config.replace(experiment(scenes, tmp_path), {"contrast.memory": memory})
    space = {f"contrast.{key}": integers(1, 500) for key in SIZES}
    assert own_values(settings, space) == {f"contrast.{key}": size for key, size in SIZES.items()}


def test_an_unset_size_stays_unset_where_that_is_a_choice(scenes: Path, tmp_path: Path) -> None:
    settings, key = experiment(scenes, tmp_path), "contrast.pixel_queue_size"
    search = Search(space={key: choice(None, 50), "contrast.region_memory_size": integers(1, 50)})
    assert own_values(settings, search.space) == {key: None, "contrast.region_memory_size": 10}
    assert outside(search, settings) == {}


def test_an_own_value_outside_the_space_is_named(scenes: Path, tmp_path: Path) -> None:
    space = {"optim.lr": loguniform(0.1, 1.0), "contrast.pixel_queue_size": integers(200, 500)}
    found = outside(Search(space=space), experiment(scenes, tmp_path))
    assert found == {"optim.lr": 0.01, "contrast.pixel_queue_size": 100}


@pytest.mark.parametrize(
    ("name", "num_classes", "num_images"),
    [
        ("ade20k", 150, 20_210),
        ("camvid", 11, 367),
        ("camvid_pretrained", 11, 367),
        ("cityscapes", 19, 2975),
        ("coco_stuff", 171, 118_287),
        ("pascal_context", 59, 4998),
    ],
)
def test_the_spaces_of_the_experiments_hold_their_own_values(
    name: str, num_classes: int, num_images: int
) -> None:
    found = runpy.run_path(str(EXPERIMENTS / f"{name}.py"))
    settings, space = config.flatten(found["EXPERIMENT"]), found["SEARCH"].space
    sizes = MemoryConfig(memory="both")
    settings["contrast.pixel_queue_size"] = sizes.pixels_of(num_classes, num_images)
    settings["contrast.region_memory_size"] = sizes.regions_of(num_classes, num_images)
    assert [key for key in space if settings[key] not in space[key]] == []
