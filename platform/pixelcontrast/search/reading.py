"""The reader of searches: a search's folder with its study, as one record. Writes nothing."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from pixelcontrast.runs.record import RunRecord, kind_of, read_run
from pixelcontrast.runs.run_folder import EXPERIMENT
from pixelcontrast.runs.search_record import SearchDescription, SearchRecord, TrialRecord, read_description
from pixelcontrast.search.folder import JOURNAL, local_folder, open_study_storage
from pixelcontrast.search.trials import find_study, handed_out
from pixelcontrast.storage import Storage, one_line

_NOTED = frozenset({"run", "overrides", "arm", "seed", "error", "baseline"})
"""Attributes of a trial that are no part of its run's summary."""

logger = logging.getLogger(__name__)


def read(location: str) -> RunRecord | SearchRecord:
    """What lies at a folder or URI.

    Raises:
        ValueError: neither a run's nor a search's folder, or one that this version cannot read.
    """
    folder = Storage(location, option="RUN_OR_SEARCH")
    try:
        return read_search(folder) if kind_of(folder) == "search" else read_run(folder)
    except OSError as error:
        raise ValueError(f"{location} cannot be read: {one_line(error)}") from error


def read_search(search: Storage) -> SearchRecord:
    """A search's folder, whatever state its trials are in; raises as ``runs.search_record``'s reader."""
    description = read_description(search)
    with _study_storage(search, description.study) as storage:
        trials = tuple(_trial(search, trial) for trial in _trials(storage, description))
    known = {field.name: getattr(description, field.name) for field in fields(description)}
    return SearchRecord(**known, trials=trials)


@contextmanager
def _study_storage(search: Storage, url: str | None) -> Iterator[BaseStorage | None]:
    """The study's storage; None where there is no journal yet, which opening would create."""
    if url is not None:
        yield open_study_storage(local_folder(search), url)
    elif not search.exists(JOURNAL):
        yield None
    elif search.is_local:
        yield open_study_storage(local_folder(search), None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / JOURNAL).write_bytes(search.read(JOURNAL))
            yield open_study_storage(Path(folder), None)


def _trials(storage: BaseStorage | None, search: SearchDescription) -> list[FrozenTrial]:
    """The trials of the study, if there is one yet."""
    if storage is None:
        return []
    name = find_study(storage, search.name)
    if name is None:
        if search.study is not None:
            raise ValueError(
                f"{search.storage.location}: --study {search.study} has no study {search.name}. A search in "
                "a database is found by its folder's name: was the folder renamed?"
            )
        return []
    return handed_out(optuna.load_study(study_name=name, storage=storage))


def _trial(search: Storage, frozen: FrozenTrial) -> TrialRecord:
    attributes = frozen.user_attrs
    name = attributes.get("run", "")
    run = _run(search / name) if name else None
    rows, attempts, evaluations = (run.rows, run.attempts, run.evaluations) if run else ([], [], [])
    summary = {key: value for key, value in attributes.items() if key not in _NOTED}
    if run is not None and "attempts" not in summary:
        summary = dict(run.summary)
    return TrialRecord(
        number=frozen.number,
        run=name,
        state=frozen.state.name,
        arm=attributes.get("arm"),
        seed=attributes.get("seed"),
        overrides=attributes.get("overrides", {}),
        is_baseline=attributes.get("baseline", False),
        values=tuple(frozen.values or ()) if frozen.state == TrialState.COMPLETE else (),
        summary=summary,
        curve=tuple((row["step"], row["miou"]) for row in evaluations) or _reported(frozen),
        iou=evaluations[-1]["iou"] if evaluations else {},
        ended=rows[-1]["time"] if rows else None,
        attempt=attempts[-1] if attempts else {},
        error=str(attributes.get("error", "")),
        frozen=frozen,
    )


def _run(run: Storage) -> RunRecord | None:
    """A trial's run; None, with a warning, where it cannot be read, as the others still can."""
    try:
        return read_run(run) if run.exists(EXPERIMENT) else None
    except ValueError as error:
        logger.warning("%s; the search is shown without what only this run knows", error)
        return None


def _reported(frozen: FrozenTrial) -> tuple[tuple[int, float], ...]:
    """What the study itself knows of the curve, where the run's folder is gone."""
    return tuple(sorted(frozen.intermediate_values.items()))
