"""Searches and comparisons at the terminal: which trials start, how they end, how they compare."""

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelcontrast.cli.tables import settings, show_arms, show_best
from pixelcontrast.cli.terminal import failures_told, messages_shown
from pixelcontrast.config import Experiment
from pixelcontrast.console import PlainConsole
from pixelcontrast.search import Search
from pixelcontrast.search.settings import arms_of, check_space
from pixelcontrast.words import count, duration, percent, setting

if TYPE_CHECKING:
    from pixelcontrast.runs.search_record import TrialRecord
    from pixelcontrast.search.folder import SearchFolder
    from pixelcontrast.search.trials import Proposal

_RESUME = "Rerun the command to resume it: failed trials are tried again, others that have ended stay."
_say = PlainConsole().say


def search_space(experiment: Experiment, search: Search) -> None:
    """Search the space of an experiment's file to ``search.trials`` trials, and show the best.

    The process ends with status 1 where no trial is complete: some settings diverge in most searches.
    """
    with failures_told(resume=_RESUME), messages_shown():
        from pixelcontrast import training
        from pixelcontrast.cluster.tune.search import run_search
        from pixelcontrast.search.own_values import outside
        from pixelcontrast.search.reading import read_search

        check_space(search, experiment)
        training.check_inputs(experiment)
        trials, steps = count(search.trials or 0, "trial"), count(experiment.optim.steps, "step")
        _say(f"Search of {trials}, {steps} each, over {', '.join(search.space)}.")
        _say(_describe_stopping(search, experiment))
        for key, value in outside(search, experiment).items():
            _say(
                f"No baseline: the experiment's own {key}, {setting(value)}, is not in the space "
                f"({search.space[key]}); trial 0 draws it."
            )
        folder = run_search(experiment, search, listener=_Lines())
        found = read_search(folder.storage)
        show_best(found)
        _close(folder, failed=found.in_state("FAIL"), in_vain=not found.in_state("COMPLETE"))


def study_arms(experiment: Experiment, search: Search, names: tuple[str, ...]) -> None:
    """Train the arms of an experiment's file on the same seeds, and show how they compare.

    The process ends with status 1 where a run that was asked for has failed.
    """
    with failures_told(resume=_RESUME), messages_shown():
        from pixelcontrast import training
        from pixelcontrast.cluster.tune.search import run_search
        from pixelcontrast.search.reading import read_search

        arms = arms_of(search, experiment, names)
        training.check_inputs(experiment)
        steps, seeds = experiment.optim.steps, ", ".join(map(str, search.seeds))
        _say(f"{count(len(arms), 'arm')} ({', '.join(arms)}) on seeds {seeds}, {count(steps, 'step')} each.")
        folder = run_search(experiment, search, arms=arms, listener=_Lines())
        found = read_search(folder.storage)
        show_arms(found)
        asked = [trial for trial in found.in_state("FAIL") if trial.arm in arms]
        failed = [trial for trial in asked if trial.seed in search.seeds]
        _close(folder, failed=failed, in_vain=bool(failed))


def _describe_stopping(search: Search, experiment: Experiment) -> str:
    if len(search.objectives) > 1:
        return f"Objectives {' and '.join(search.objectives)}: no trial is stopped early."
    if not search.stops_early:
        return "No trial is stopped early."
    steps, every = experiment.optim.steps, experiment.run.eval_interval
    first = -(-search.grace_steps(steps) // every) * every
    if first >= steps:
        return (
            f"No trial is stopped early: there is no evaluation between step {first} and the last; lower "
            f"run.eval_interval (it is {every})."
        )
    return f"Trials are stopped early from step {first} on: the best 1 in {search.reduction_factor} continue."


class _Lines:
    """Prints a line per event; trials run side by side, so a live bar would not do."""

    def __init__(self) -> None:
        self._left = 0
        self._warned: dict[str, str] = {}
        """Warnings, and the first trial of each: what concerns all trials is not repeated in full."""

    def began(self, *, remaining: int, concurrent: int) -> None:
        self._left = remaining
        _say(f"{count(remaining, 'trial')} to run, {concurrent} at a time.")

    def started(self, proposal: "Proposal") -> None:
        _say(f"{proposal.name}  starts  {settings(proposal.overrides)}")

    def warned(self, proposal: "Proposal", text: str) -> None:
        first = self._warned.setdefault(text, proposal.name)
        said = (
            text if first == proposal.name else f"as {first}: {textwrap.shorten(text, 60, placeholder=' …')}"
        )
        _say(f"{proposal.name}  warning: {said}")

    def training(self, proposal: "Proposal", step: int, seconds_per_step: float, seconds_left: float) -> None:
        left = f"{duration(seconds_left)} left without evaluations"
        _say(f"{proposal.name}  step {step}  {seconds_per_step:.2f} s a step, {left}")

    def evaluated(self, proposal: "Proposal", step: int, miou: float) -> None:
        _say(f"{proposal.name}  step {step}  mIoU {percent(miou)} %")

    def ended(self, proposal: "Proposal", state: str, found: Mapping[str, Any]) -> None:
        self._left -= 1
        left = f"{self._left} left"
        if state == "failed":
            _say(f"{proposal.name}  failed: {found['error']}  ({left})")
            return
        score = f"mIoU {percent(found['last_miou'])} % at step {found['steps']}, {found['seconds']:.0f} s"
        _say(f"{proposal.name}  {'stopped early' if state == 'pruned' else 'done'}  {score}  ({left})")

    def stopped(self, proposal: "Proposal", where: str) -> None:
        _say(f"{proposal.name}  stopped{where}")


def _close(folder: "SearchFolder", *, failed: "Sequence[TrialRecord]", in_vain: bool) -> None:
    """Write the report, print where it is and why trials have failed; ``in_vain``, end with status 1."""
    from pixelcontrast.reports import write_report
    from pixelcontrast.search.artifacts import attach_report

    path = write_report(folder.storage.location)
    if folder.storage.is_local:
        attach_report(folder.load(), Path(path), folder)
    _say(f"report   {path}")
    _say(f"compare  pixelcontrast dashboard {shlex.quote(folder.storage.location)}")
    if failed:
        lines = [f"{trial.run} failed: {trial.error}" for trial in failed]
        more = f"{count(len(failed), 'trial')} failed. Rerun the command to try again."
        print("\n".join([*lines, more]), file=sys.stderr)
    if in_vain:
        sys.exit(1)
