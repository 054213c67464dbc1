"""Parts of the reports that need no training: options, importances, numbers."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from pixelcontrast import config, parse
from pixelcontrast.reports.importance import importances
from pixelcontrast.words import duration, percent, points
from searches import experiment


def test_options_read_back_whatever_their_type(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path)
    values = {
        "optim.lr": 0.1 + 0.2,
        "optim.weight_decay": 1e-05,
        "optim.class_weights": [1.0] * 18 + [2.5],
        "optim.clip_norm": None,
        "contrast.memory_sharded": True,
        "contrast.num_positives": 7,
        "model.weights": "-a file's name.pth",
        "data.crop_size": [32, 48],
    }
    assert parse(settings, args=config.arguments(values)) == config.replace(settings, values)
    changed = config.replace(settings, values)
    back = {key: config.flatten(settings)[key] for key in values}
    assert parse(changed, args=config.arguments(back)) == settings


def test_importance_finds_what_decides_and_says_how_surely() -> None:
    unit = FloatDistribution(0.0, 1.0)
    trials = [
        create_trial(
            value=index / 40,
            params={"a": index / 40, "b": index * 7 % 40 / 40},
            distributions={"a": unit, "b": unit},
        )
        for index in range(40)
    ]
    for maximize in (True, False):
        first, second = importances(trials, maximize=maximize)
        assert (first.key, second.key) == ("a", "b")
        assert 0 <= second.low <= second.mean <= second.high < first.low <= first.mean <= first.high <= 1
        assert first.mean + second.mean == pytest.approx(1.0)
    assert importances(trials, maximize=True) == importances(trials, maximize=True)
    few, many = importances(trials[::5], maximize=True)[0], importances(trials, maximize=True)[0]
    assert few.high - few.low > many.high - many.low, "eight trials say less than forty"


def test_numbers_as_a_reader_wants_them() -> None:
    assert [duration(seconds) for seconds in (0.25, 59.7, 75, 3599.6, 4210, 200_000)] == [
        "0.2 s",
        "60 s",
        "1 min 15 s",
        "1 h 0 min",
        "1 h 10 min",
        "2 d 7 h",
    ]
    assert (percent(0.42349), percent(None), percent(float("nan"))) == ("42.3", "–", "–")
    assert (points(0.0123), points(-0.0123), points(-0.0001)) == ("+1.2", "−1.2", "0.0")
