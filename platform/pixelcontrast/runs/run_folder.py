"""A run's folder: where it is, and its configuration, attempts, metrics and result as files."""

import json
import logging
from collections.abc import Collection
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.storage import Storage, one_line

EXPERIMENT, RESULT = "experiment.json", "result.json"
CONFUSION = "confusion.json"
METRICS, TABLE, ATTEMPTS = "metrics.jsonl", "metrics.parquet", "attempts.jsonl"

logger = logging.getLogger(__name__)

_ROW = ("kind", "step", "steps", "attempt", "time")
_SCORED = (*_ROW, "miou", "iou")
"""What readers rely on in the row of an evaluation."""
_NEEDED = {
    METRICS: (*_ROW, "images_per_second"),
    ATTEMPTS: ("attempt", "started", "from_step", "world_size"),
    RESULT: ("step", "miou", "checkpoint", "best_checkpoint", "attempts", "provenance"),
    CONFUSION: ("step", "classes", "pixels"),
}
"""What they rely on in each other row, or in the whole file."""
_MEND_LINE = "Restore the file, or delete the line"

_SHOWN = 3
"""Reasons named why a configuration cannot be read: the first ones tell what kind of file it is."""

Row = dict[str, Any]
"""One report: plain JSON values, ``kind`` ("train" or "eval"), ``step``, ``attempt`` and ``time``, in seconds
since the epoch, among them. A training row may have ``warnings``: cause → one line."""


def open_storage(experiment: Experiment) -> Storage:
    """The run's folder: ``<storage>/<name>``."""
    return Storage(experiment.run.storage) / experiment.run.name


def parse_experiment(content: bytes | str, *, where: str) -> Experiment:
    """What an experiment.json records.

    Args:
        where: it lies, for the error's text.

    Raises:
        ValueError: in one line, naming ``where`` and each key that this version does not know, lacks, or
            does not allow the value of.
    """
    try:
        json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where} is damaged: it is no valid JSON") from error
    try:
        return config.from_json(content)
    except ValueError as error:
        reasons = config.explain(error).splitlines()
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise ValueError(
            f"{where} cannot be read by this version: {'; '.join(reasons[:_SHOWN])}{more}. Use the version "
            f"that wrote it: the run's {ATTEMPTS} names its commit"
        ) from error


def read_experiment(run: Storage) -> Experiment:
    """The configuration of a run or a checkpoint, by its folder.

    Raises:
        ValueError: this version cannot read it.
        FileNotFoundError: it is not there.
    """
    return parse_experiment(run.read(EXPERIMENT), where=(run / EXPERIMENT).location)


def read_experiment_file(location: str) -> Experiment:
    """What an experiment.json records.

    Args:
        location: its path, the folder of its run or checkpoint, or a URI of either that ``pyarrow.fs`` reads.

    Raises:
        ValueError: it is not there, or cannot be read by this version.
    """
    file = Storage(location, option="RUN_OR_EXPERIMENT_JSON")
    try:
        if file.is_folder:
            file /= EXPERIMENT
        content = file.parent.read(file.name)
    except OSError as error:
        raise ValueError(f"{file.location} cannot be read: {one_line(error)}") from error
    return parse_experiment(content, where=file.location)


def write_experiment(run: Storage, experiment: Experiment) -> None:
    """Record the configuration that a run begins with."""
    run.write(EXPERIMENT, config.to_json(experiment).encode())


def read_result(run: Storage) -> Row | None:
    """What a finished run wrote at its end, or None while it is not finished.

    Raises:
        ValueError: the file is damaged, or lacks what a result has.
    """
    if not run.exists(RESULT):
        return None
    remedy = "Delete it: the run's command then writes it again, from the last checkpoint"
    return read_json(run, RESULT, needed=_NEEDED[RESULT], remedy=remedy)


def write_result(run: Storage, result: Row) -> None:
    """Write what marks the run as finished."""
    run.write(RESULT, json.dumps(result, indent=2).encode())


def read_rows(run: Storage) -> list[Row]:
    """The rows of metrics so far, in order; without a last one that is cut off, of which a warning tells.

    Raises:
        ValueError: another line is damaged, or lacks what a row has; the text names it.
    """
    return _read_lines(run, METRICS)


def write_rows(run: Storage, rows: list[Row]) -> None:
    """Write all rows of metrics; they are on disk when this returns."""
    run.write(METRICS, _lines(rows))


def add_row(run: Storage, row: Row) -> None:
    """Append a row of metrics on a local disk, as a long run's are many megabytes; it is there on return."""
    run.append(METRICS, _lines([row]))


def write_table(run: Storage, rows: list[Row]) -> None:
    """Write the rows of metrics as parquet, a column for each number."""
    flat = [{"kind": row["kind"]} | scalars(row) for row in rows]
    columns = dict.fromkeys(key for row in flat for key in row)
    table = pa.table({key: [row.get(key) for row in flat] for key in columns})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    run.write(TABLE, sink.getvalue().to_pybytes())


def read_attempts(run: Storage) -> list[Row]:
    """What is recorded of each start of the workers so far, in order; damage is met as in ``read_rows``."""
    return _read_lines(run, ATTEMPTS)


def add_attempt(run: Storage, attempt: Row) -> None:
    """Record another start of the workers."""
    run.write(ATTEMPTS, _lines([*read_attempts(run), attempt]))


def next_attempt(run: Storage) -> int:
    """The number of the next start of the workers, also where ``attempts.jsonl`` has lost some."""
    known = [row.get("attempt", 0) for row in (*read_attempts(run), *read_rows(run))]
    return max(known, default=0) + 1


def read_json(folder: Storage, name: str, *, needed: Collection[str] = (), remedy: str) -> Row:
    """The object that a small JSON file holds.

    Args:
        needed: keys that it always has.
        remedy: what to do where it is damaged, in a sentence without a full stop.

    Raises:
        ValueError: it is damaged, or lacks a key; the text names it.
        FileNotFoundError: it is not there.
    """
    where = (folder / name).location
    try:
        content = json.loads(folder.read(name))
    except ValueError as error:
        raise ValueError(f"{where} is damaged: it is no valid JSON. {remedy}") from error
    if lacks := _lacks(content, needed):
        raise ValueError(f"{where} {lacks}. {remedy}")
    return content


def read_confusion(run: Storage) -> Row | None:
    """The confusion matrix of the last evaluation; None while there is none. Raises as ``read_result``."""
    if not run.exists(CONFUSION):
        return None
    remedy = "Delete it: the next evaluation writes it again"
    return read_json(run, CONFUSION, needed=_NEEDED[CONFUSION], remedy=remedy)


def scalars(row: Row) -> dict[str, Any]:
    """The row's numbers, those of a nested dictionary as ``iou/road``."""
    flat = {}
    for key, value in row.items():
        if key == "warnings":
            continue
        if isinstance(value, dict):
            flat |= {f"{key}/{name}": number for name, number in value.items() if number is not None}
        elif key != "kind" and value is not None:
            flat[key] = value
    return flat


@cache
def _warn_of_cut_line(where: str, number: int) -> None:
    """Once in a process, however often it reads the file."""
    logger.warning("%s: the last line, %d, is cut off and was left out", where, number)


def lacking(content: Any, name: str) -> str | None:
    """What the object of a run's JSON file, or of one line, lacks that readers rely on, in words; or None."""
    scored = name == METRICS and isinstance(content, dict) and content.get("kind") == "eval"
    return _lacks(content, _SCORED if scored else _NEEDED[name])


def _lacks(content: Any, needed: Collection[str]) -> str | None:
    """What such a file or row always has and this one has not, after an edit or from another version."""
    if not isinstance(content, dict):
        return "is no JSON object"
    missing = [key for key in needed if key not in content]
    return f"lacks {', '.join(missing)}" if missing else None


def _read_lines(run: Storage, name: str) -> list[Row]:
    lines = run.read(name).splitlines(keepends=True) if run.exists(name) else []
    where = (run / name).location
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                _warn_of_cut_line(where, number)
                break
            raise ValueError(f"{where} is damaged: line {number} is no valid JSON. {_MEND_LINE}") from error
        if lacks := lacking(row, name):
            raise ValueError(f"{where} is damaged: line {number} {lacks}. {_MEND_LINE}")
        rows.append(row)
    return rows


def _lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
