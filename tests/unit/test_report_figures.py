"""Figures of reports whose names or values are out of the ordinary."""

import plotly.graph_objects as go
import pytest

from pixelcontrast import Experiment
from pixelcontrast.reports import figures, trials
from pixelcontrast.reports.arms_page import arms_page
from search_records import record, trial

IOU: dict[str, float | None] = {"1": 0.5, "2": 0.4, "10": 0.3}


@pytest.mark.parametrize(
    "figure",
    [
        figures.class_bars(IOU),
        figures.class_dots(IOU, IOU, names=("a", "b")),
        figures.confusion(list(IOU), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        figures.arms({"0.1": {0: 0.5}, "1": {0: 0.4}}, {"0.1": "#000", "1": "#000"}),
    ],
)
def test_names_that_are_numbers_are_names(figure: go.Figure) -> None:
    shown = figure.to_dict()
    assert shown["layout"]["yaxis"]["type"] == "category"
    if shown["data"][0]["type"] == "heatmap":
        assert shown["layout"]["xaxis"]["type"] == "category"


@pytest.mark.parametrize(
    ("objectives", "shape"), [(("miou", "seconds_per_step"), "hv"), (("seconds_per_step", "miou"), "vh")]
)
def test_steps_of_the_pareto_front_enclose_what_it_dominates(objectives: tuple[str, ...], shape: str) -> None:
    points = [figures.Point("a", (0.3, 0.3), on_front=True), figures.Point("b", (0.9, 0.9), on_front=True)]
    assert figures.pareto(points, objectives).to_dict()["data"][1]["line"]["shape"] == shape


def test_an_arm_that_search_json_lacks_is_drawn(experiment: Experiment) -> None:
    warm = trial(0, (0.5,), 0.5, arm="warm", seed=0)
    assert "warm" in arms_page(record(experiment, [warm], ("miou",)), written=0.0)


def test_trials_as_good_as_the_best_are_among_the_curves(experiment: Experiment) -> None:
    tied = [trial(number, (0.5,), 0.5, curve=((400, 0.5),)) for number in range(2)]
    shown = str(trials.state_curves(record(experiment, tied, ("miou",))))
    assert "trial-0000" in shown
    assert "trial-0001" in shown
