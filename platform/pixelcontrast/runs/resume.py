"""May a run be resumed from its folder: is it the same run, and is all there that it had?"""

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.checkpoint import CheckpointError
from pixelcontrast.runs.record import SEARCH
from pixelcontrast.runs.run_folder import (
    ATTEMPTS,
    EXPERIMENT,
    METRICS,
    RESULT,
    Row,
    read_attempts,
    read_experiment,
    read_rows,
)
from pixelcontrast.storage import Storage


def check_resumable(run: Storage, experiment: Experiment) -> None:
    """Refuse to resume a run under another configuration, or one that has lost what it had.

    A run that has no checkpoint yet has nothing to resume: it starts again, under any configuration.

    Raises:
        ValueError: naming each key that decides what is trained and differs, with both values; a file that
            is missing or damaged; or the folder is a search's. A configuration that this version cannot read
            is refused too.
        CheckpointError: the run had checkpoints, and none is left.
    """
    if run.exists(SEARCH):
        raise ValueError(f"{run.location} is a search's folder; choose another --run.name")
    checkpoints = checkpoint.names(run)
    check_nothing_lost(run, checkpoints[-1] if checkpoints else None)
    if checkpoints or run.exists(RESULT):
        _refuse_changes(run, experiment)


def check_finished(run: Storage, experiment: Experiment) -> None:
    """Refuse to take a finished run's result for that of another configuration.

    Nothing else of the run has to be there: its checkpoints may have been deleted to save space.

    Raises:
        ValueError: as of ``check_resumable``, for a key that differs or a configuration that is not there.
    """
    if not run.exists(EXPERIMENT):
        lost = f"{EXPERIMENT} is missing, but the run has finished"
        raise ValueError(_with_remedy(run, lost))
    _refuse_changes(run, experiment)


def _refuse_changes(run: Storage, experiment: Experiment) -> None:
    what = f"run {experiment.run.name} in {experiment.run.storage}"
    config.refuse_changes(what, config.differences(read_experiment(run), experiment), option="--run.name")


def check_nothing_lost(run: Storage, newest: str | None) -> None:
    """Raise ``ValueError`` where the folder lacks what it must have had; names it, and how to start anew.

    Args:
        newest: the checkpoint's folder from which the run would be resumed; None where there is none.
    """
    rows = read_rows(run)
    if newest is None:
        reason = "it has finished" if run.exists(RESULT) else _progress(rows, read_attempts(run))
        if reason:
            lost = f"there is no checkpoint in {checkpoint.FOLDER}/, but the run had one: {reason}"
            raise CheckpointError(_with_remedy(run, lost))
        return
    for name, is_there in ((EXPERIMENT, run.exists(EXPERIMENT)), (METRICS, bool(rows))):
        if not is_there:
            lost = f"{name} is missing or empty, but the run has {newest}"
            raise ValueError(_with_remedy(run, lost))


def _progress(rows: list[Row], attempts: list[Row]) -> str | None:
    """What says that a checkpoint had been written; None while nothing does."""
    for attempt in attempts:
        if attempt.get("from_step"):
            return f"{ATTEMPTS} has attempt {attempt['attempt']} resumed from step {attempt['from_step']}"
    if not rows:
        return None
    last = rows[-1]
    evaluated = next((row["step"] for row in rows if row["kind"] == "eval"), None)
    saved = [evaluated, *_intervals(attempts, last.get("attempt"))]
    # A row is written before the checkpoint of its step, and after those of all steps before.
    if any(step is not None and step < last["step"] for step in saved):
        return f"{METRICS} has rows to step {last['step']}"
    return None


def _intervals(attempts: list[Row], number: int | None) -> list[int | None]:
    """At which step an attempt that began at step 0 first saved, as far as its record tells."""
    placement = next((row.get("placement", {}) for row in attempts if row["attempt"] == number), {})
    return [placement.get("run.checkpoint_interval"), placement.get("run.eval_interval")]


def _with_remedy(run: Storage, lost: str) -> str:
    return (
        f"{run.location}: {lost}. Restore what is missing; or, to start anew on purpose, delete the folder "
        "or choose another --run.name"
    )
