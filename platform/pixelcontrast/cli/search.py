"""Searches and studies at the terminal: what starts, how trials end, how they compare."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pixelcontrast.cli.terminal import failures_told, messages_shown
from pixelcontrast.config import Experiment
from pixelcontrast.search import Search
from pixelcontrast.search.settings import arms_of, check_space

if TYPE_CHECKING:
    from pixelcontrast.search.folder import SearchFolder
    from pixelcontrast.search.trials import Proposal

_RESUME = "The same command goes on with it: trials that have ended stay as they are."
_SHOWN = 10
_console = Console()


def search_space(experiment: Experiment, search: Search) -> None:
    """Search the space of an experiment's file to ``search.trials`` trials, and show the best."""
    from pixelcontrast import training
    from pixelcontrast.cluster.search import run_search

    with failures_told(resume=_RESUME), messages_shown():
        check_space(search, experiment)
        training.check_inputs(experiment)
        _say(
            f"Search of {search.trials} trials, {experiment.optim.steps} steps each, over "
            f"{', '.join(search.space)}."
        )
        _say(_describe_stopping(search, experiment))
        folder = run_search(experiment, search, progress=_Lines())
    _show_best(folder)


def study_arms(experiment: Experiment, search: Search, names: tuple[str, ...]) -> None:
    """Train the arms of an experiment's file on the same seeds, and show how they compare."""
    from pixelcontrast import training
    from pixelcontrast.cluster.search import run_search

    with failures_told(resume=_RESUME), messages_shown():
        arms = arms_of(search, experiment, names)
        training.check_inputs(experiment)
        seeds = ", ".join(map(str, search.seeds))
        _say(f"{len(arms)} arms ({', '.join(arms)}) on seeds {seeds}, {experiment.optim.steps} steps each.")
        folder = run_search(experiment, search, arms=arms, progress=_Lines())
    _say(folder.storage.location)


def _describe_stopping(search: Search, experiment: Experiment) -> str:
    if len(search.objectives) > 1:
        return f"Objectives {' and '.join(search.objectives)}: no trial is stopped early."
    if not search.stops_early:
        return "No trial is stopped early."
    steps, every = experiment.optim.steps, experiment.run.eval_interval
    first = max(round(search.grace * steps), 1)
    first = -(-first // every) * every
    if first >= steps:
        return (
            f"No trial is stopped early: there is no evaluation between step {first} and the last; lower "
            f"run.eval_interval (it is {every})."
        )
    return f"Trials are stopped early from step {first} on: the best 1 in {search.reduction_factor} go on."


class _Lines:
    """A line for every event, as trials of a search come to it side by side."""

    def __init__(self) -> None:
        self._left, self._best = 0, -1.0

    def began(self, *, remaining: int, concurrent: int) -> None:
        self._left = remaining
        _say(f"{remaining} trials to run, {concurrent} at a time.")

    def started(self, proposal: "Proposal") -> None:
        _say(f"{proposal.name}  starts  {describe(proposal.overrides)}")

    def evaluated(self, proposal: "Proposal", step: int, miou: float) -> None:
        _say(f"{proposal.name}  step {step}  mIoU {_percent(miou)}")

    def ended(self, proposal: "Proposal", state: str, found: Mapping[str, Any]) -> None:
        self._left -= 1
        left = f"{self._left} left"
        if state == "failed":
            _say(f"{proposal.name}  failed: {found['error']}  ({left})")
            return
        score = f"mIoU {_percent(found['last_miou'])} at step {found['steps']}, {found['seconds']:.0f} s"
        if state == "complete" and found["last_miou"] > self._best:
            self._best = found["last_miou"]
            score += ", the best so far"
        _say(f"{proposal.name}  {'stopped early' if state == 'pruned' else 'done'}  {score}  ({left})")


def _show_best(folder: "SearchFolder") -> None:
    """The best trials, and what became of all."""
    trials = folder.trials()
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    done.sort(key=lambda trial: trial.user_attrs["last_miou"], reverse=True)
    shown = Table(box=None, pad_edge=False, header_style="")
    shown.add_column("trial", no_wrap=True)
    shown.add_column("mIoU %", justify="right")
    shown.add_column("s / step", justify="right")
    shown.add_column("settings")
    for trial in done[:_SHOWN]:
        found = trial.user_attrs
        numbers = _percent(found["last_miou"]), f"{found['seconds_per_step']:.2f}"
        shown.add_row(found["run"], *numbers, describe(found["overrides"]))
    _console.print(shown)
    counts = {state: sum(trial.state.name == state for trial in trials) for state in ("PRUNED", "FAIL")}
    _say(f"{len(done)} trials trained to the end, {counts['PRUNED']} stopped early, {counts['FAIL']} failed")
    for trial in trials:
        if trial.state.name == "FAIL":
            _say(f"{trial.user_attrs['run']} failed: {trial.user_attrs['error']}")
    if done:
        best = done[0].user_attrs
        _say(f"best network {folder.run(best['run']).location}/{best['checkpoint']}/model.safetensors")


def describe(overrides: Mapping[str, Any]) -> str:
    """Settings on one line."""
    return "  ".join(f"{key} {_short(value)}" for key, value in overrides.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _say(line: str) -> None:
    _console.print(line, markup=False, highlight=False, soft_wrap=True)
