"""A search's driver in an Optuna study: no Ray, and no training."""

from typing import Any

from optuna.trial import FrozenTrial

from pixelcontrast import Experiment, Search, choice, integers, loguniform
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.settings import Choice, Range

SPACE: dict[str, Range | Choice] = {
    "contrast.temperature": loguniform(0.03, 0.5),
    "contrast.num_positives": integers(10, 2000, log=True),
    "contrast.memory": choice("both", "pixel", "none"),
}
STEPS = 400


class Driver:
    """One life of a search's driver: what it hands out is given back by ``end``, unless it dies before."""

    def __init__(self, experiment: Experiment, search: Search, arms: dict[str, dict[str, Any]] | None = None):
        self.folder = SearchFolder(experiment, search, arms)
        self.folder.check()
        self._held = self.folder.held()
        self.trials = self.folder.trials(self._held.__enter__())

    def end(self, number: int, miou: float) -> None:
        self.trials.report(number, STEPS, miou)
        self.trials.complete(number, {"miou": miou, "seconds_per_step": 1.0})

    def die(self) -> None:
        self._held.__exit__(None, None, None)


def states(trials: list[FrozenTrial]) -> list[str]:
    """The names of their states, in order."""
    return [trial.state.name for trial in trials]
