"""A run's folder: where it is, and its configuration, attempts, metrics and result as files."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.runs.storage import Storage

EXPERIMENT, RESULT = "experiment.json", "result.json"
METRICS, TABLE, ATTEMPTS = "metrics.jsonl", "metrics.parquet", "attempts.jsonl"

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
    """What an experiment.json records; ``location`` is its path, or a URI that ``pyarrow.fs`` reads.

    Raises:
        ValueError: it is not there, or cannot be read by this version.
    """
    file = Storage(location)
    try:
        content = file.parent.read(file.name)
    except OSError as error:
        raise ValueError(f"{location} cannot be read: {error}") from error
    return parse_experiment(content, where=location)


def write_experiment(run: Storage, experiment: Experiment) -> None:
    """Record the configuration that a run begins with; a resumed run's stays as it is."""
    if not run.exists(EXPERIMENT):
        run.write(EXPERIMENT, config.to_json(experiment).encode())


def check_same_experiment(run: Storage, experiment: Experiment) -> None:
    """Refuse to resume a run under another configuration.

    Raises:
        ValueError: naming each key that decides what is trained and differs, with both values; or this
            version cannot read the run's configuration.
    """
    if not run.exists(EXPERIMENT):
        return
    what = f"run {experiment.run.name} in {experiment.run.storage}"
    config.refuse_changes(what, config.differences(read_experiment(run), experiment), option="--run.name")


def read_result(run: Storage) -> Row | None:
    """What a finished run wrote at its end, or None while it is not finished."""
    return json.loads(run.read(RESULT)) if run.exists(RESULT) else None


def write_result(run: Storage, result: Row) -> None:
    """Write what marks the run as finished."""
    run.write(RESULT, json.dumps(result, indent=2).encode())


def read_rows(run: Storage) -> list[Row]:
    """The rows of metrics so far, in order."""
    return _read_lines(run, METRICS)


def write_rows(run: Storage, rows: list[Row]) -> None:
    """Write all rows of metrics; they are on disk when this returns."""
    run.write(METRICS, _lines(rows))


def write_table(run: Storage, rows: list[Row]) -> None:
    """Write the rows of metrics as parquet, a column for each number."""
    flat = [{"kind": row["kind"]} | scalars(row) for row in rows]
    columns = dict.fromkeys(key for row in flat for key in row)
    table = pa.table({key: [row.get(key) for row in flat] for key in columns})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    run.write(TABLE, sink.getvalue().to_pybytes())


def read_attempts(run: Storage) -> list[Row]:
    """What is recorded of each start of the workers so far, in order."""
    return _read_lines(run, ATTEMPTS)


def add_attempt(run: Storage, attempt: Row) -> None:
    """Record another start of the workers."""
    run.write(ATTEMPTS, _lines([*read_attempts(run), attempt]))


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


def _read_lines(run: Storage, name: str) -> list[Row]:
    return [json.loads(line) for line in run.read(name).splitlines()] if run.exists(name) else []


def _lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
