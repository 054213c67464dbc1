"""A search's trials as a table for other programs: parquet and CSV, a row per trial."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pixelcontrast.runs.search_record import SearchRecord

_SUMMARY = {
    "miou": ("last_miou", pa.float64()),
    "best_miou": ("best_miou", pa.float64()),
    "best_step": ("best_step", pa.int64()),
    "steps": ("steps", pa.int64()),
    "seconds_per_step": ("seconds_per_step", pa.float64()),
    "seconds": ("seconds", pa.float64()),
    "worker_seconds": ("worker_seconds", pa.float64()),
    "gap": ("gap", pa.float64()),
    "mean_embedding_norm": ("mean_embedding_norm", pa.float64()),
}
"""Column → key of the summary, type."""


def trials_table(search: SearchRecord) -> pa.Table:
    """The trials by number. What a trial does not have is null.

    ``miou`` and ``iou/<class>``, shares from 0 to 1, are of the last evaluation, ``best_miou`` of the one at
    ``best_step``, whose ``checkpoint`` is named; ``gap`` and ``mean_embedding_norm``, the health of the
    embedding, are of the last training row. A searched key's column has the value that was trained.
    """
    trials = search.trials
    columns: dict[str, pa.Array] = {
        "number": pa.array([trial.number for trial in trials], pa.int64()),
        "run": pa.array([trial.run for trial in trials], pa.string()),
        "state": pa.array([trial.state for trial in trials], pa.string()),
    }
    if search.kind == "arms":
        columns["arm"] = pa.array([trial.arm for trial in trials], pa.string())
        columns["seed"] = pa.array([trial.seed for trial in trials], pa.int64())
    for key in changed_keys(search):
        columns[key] = _values([trial.overrides.get(key, search.settings[key]) for trial in trials])
    for name, (key, kind) in _SUMMARY.items():
        columns[name] = pa.array([trial.summary.get(key) for trial in trials], kind)
    for name in search.class_names:
        columns[f"iou/{name}"] = pa.array([trial.iou.get(name) for trial in trials], pa.float64())
    columns["checkpoint"] = pa.array([trial.summary.get("checkpoint") for trial in trials], pa.string())
    columns["error"] = pa.array([trial.error or None for trial in trials], pa.string())
    return pa.table(columns)


def changed_keys(search: SearchRecord) -> list[str]:
    """The dotted keys in which trials may differ, but for the seed."""
    if search.kind == "space":
        return list(search.space)
    return list(dict.fromkeys(key for arm in search.arms.values() for key in arm))


def to_parquet(table: pa.Table) -> bytes:
    """The table as a parquet file's bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def to_csv(table: pa.Table) -> bytes:
    """The table as CSV with a header; null is an empty field."""
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


def _values(values: list[Any]) -> pa.Array:
    """Values of one setting; where Arrow has no common type for them, such as 1 and "auto", as JSON text."""
    try:
        if not any(isinstance(value, list) for value in values):
            return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
