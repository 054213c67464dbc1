"""The three objects that Tune calls: they pass everything on to the running trials, and have no state.

This module imports Ray.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pixelcontrast.cluster.ray_internals import stop_waiting_trials


class Running(Protocol):
    """What the hooks need of ``RunningTrials``, by Tune's ids."""

    def propose(self, tune_id: str) -> dict[str, Any] | None: ...
    def report(self, tune_id: str, result: Mapping[str, Any]) -> bool: ...
    def died(self, tune_id: str) -> None: ...
    def withdraw(self, tune_id: str) -> None: ...
    @property
    def stopping(self) -> bool: ...


class _Stateless:
    """Tune copies and pickles its hooks: here a copy is the same object, and a pickle is empty."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Proposals(_Stateless, Searcher):
    """Tune's searcher: asks for the next proposal."""

    def __init__(self, running: Running):
        super().__init__()
        self._running = running

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        return self._running.propose(trial_id) or Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        del result
        if error:
            self._running.died(trial_id)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class Judge(_Stateless, FIFOScheduler):
    """Tune's scheduler: passes results on, and tells Tune which trial to stop."""

    def __init__(self, running: Running):
        super().__init__()
        self._running = running

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        del tune_controller
        stop = self._running.report(trial.trial_id, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """None once the search stops; waiting trials are then ended before they start."""
        if not self._running.stopping:
            return super().choose_trial_to_run(tune_controller)
        stop_waiting_trials(tune_controller, before=self._running.withdraw)
        return None


class Interruption(_Stateless, Stopper):
    """Tune's stopper: ends the search and the trials that are left once ``over`` returns True."""

    def __init__(self, over: Callable[[], bool]):
        self._over = over

    def __call__(self, trial_id: str, result: dict) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._over()
