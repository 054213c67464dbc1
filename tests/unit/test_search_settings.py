"""Spaces, arms and settings of a search that cannot work are named before it starts."""

from typing import Any

import pytest

from pixelcontrast import Experiment, Search, choice, integers, loguniform, uniform
from pixelcontrast.search.settings import arms_of, check_space
from studies import SPACE


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (Search(), "search.space is empty"),
        (
            Search(space={"contrast.tau": uniform(0, 1)}),
            r"contrast.tau: no such key; there are contrast.anch",
        ),
        (
            Search(space={"contrast.hard_share": uniform(-1, 1)}),
            r"hard_share \(-1 to 1\).*or equal to 0 .got -1",
        ),
        (Search(space={"contrast.num_positives": uniform(1, 9)}), "contrast.num_positives.*valid integer"),
        (Search(space={"contrast.memory": choice("both", "all")}), "contrast.memory.*'none'.*got 'all'"),
        (Search(space={"run.seed": integers(0, 9)}), "run.seed is set by the search"),
        (Search(space={"data.root": choice("a", "b")}), "data.root is set by the search"),
        (Search(space=SPACE, known=({"optim.lr": 0.1},)), r"known\[0\]: optim.lr is not in the space"),
        (
            Search(space=SPACE, known=({"contrast.temperature": 0.01},)),
            "temperature is 0.01, and the space has 0.03 to 0.5",
        ),
    ],
)
def test_mistakes_in_a_space_are_named(search: Search, message: str, experiment: Experiment) -> None:
    with pytest.raises(ValueError, match=message):
        check_space(search, experiment)


@pytest.mark.parametrize(
    "make",
    [
        lambda: uniform(1, 1),
        lambda: loguniform(0, 1),
        lambda: integers(1, 2.5),  # type: ignore[arg-type]
        lambda: choice("one"),
        lambda: choice((1, 2), (3, 4)),
        lambda: Search(seeds=(1, 1)),
        lambda: Search(objectives=()),
        lambda: Search(arms={"a/b": {}}),
    ],
)
def test_impossible_dimensions_and_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize(
    ("arms", "names", "message"),
    [
        ({}, (), "search.arms is empty"),
        ({"a": {}}, ("b",), "there is no arm b; the experiment's file has a"),
        ({"a": {}, "b": {"contrast.temperature": 0.1}}, (), "b and a are the same configuration"),
        ({"a": {}, "b": {"contrast.temperature": -1.0}}, (), "b: contrast.temperature: .* greater than 0"),
        ({"a": {"run.seed": 3}}, (), "a: run.seed is set by the search"),
    ],
)
def test_mistakes_in_arms_are_named(
    arms: dict[str, Any], names: tuple[str, ...], message: str, experiment: Experiment
) -> None:
    with pytest.raises(ValueError, match=message):
        arms_of(Search(arms=arms), experiment, names)
