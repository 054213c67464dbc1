"""What a run writes beside its checkpoints: configuration, attempts, metrics, overlays, result."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.tensorboard import SummaryWriter

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.training.storage import Storage

Row = dict[str, Any]
"""One report: plain JSON values, ``kind`` ("train" or "eval"), ``step``, ``attempt`` and ``time``, in seconds
since the epoch, among them. A training row may have ``warnings``: cause → one line."""

_EMBEDDING = frozenset(
    {"hard_anchors", "batch_positive_similarity", "batch_negative_similarity", "memory_positive_similarity"}
    | {"memory_negative_similarity", "gap", "class_gap", "mean_embedding_norm", "memory_age"}
    | {"gradient_ratio", "gradient_cosine"}
)
"""Training figures that TensorBoard shows together, as ``embedding/gap``."""


def open_storage(experiment: Experiment) -> Storage:
    """The run's folder: ``<storage>/<name>``."""
    return Storage(experiment.run.storage) / experiment.run.name


def read_experiment(location: str) -> Experiment:
    """What an experiment.json records; ``location`` is its path, or a URI that ``pyarrow.fs`` reads.

    Raises:
        ValueError: it is not there, or cannot be read by this version.
    """
    file = Storage(location)
    try:
        return config.from_json(file.parent.read(file.name))
    except OSError as error:
        raise ValueError(f"{location} cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"{location} is no experiment.json of this version: {config.explain(error)}"
        ) from error


def read_result(run: Storage) -> Row | None:
    """What a finished run wrote at its end, or None while it is not finished."""
    return json.loads(run.read("result.json")) if run.exists("result.json") else None


def read_rows(run: Storage) -> list[Row]:
    """The rows of metrics so far, in order."""
    return _read_lines(run, "metrics.jsonl")


def read_attempts(run: Storage) -> list[Row]:
    """What stands about each start of the workers so far, in order."""
    return _read_lines(run, "attempts.jsonl")


def count_attempts(run: Storage) -> int:
    """How many times the run's workers have been started so far."""
    return len(read_attempts(run))


def check_same_experiment(run: Storage, experiment: Experiment) -> None:
    """Refuse to resume a run under another configuration.

    Raises:
        ValueError: naming each key that decides what is trained and differs, with both values.
    """
    if not run.exists("experiment.json"):
        return
    try:
        written = config.from_json(run.read("experiment.json"))
    except ValueError as error:
        raise ValueError(f"{run.path('experiment.json')} is not readable by this version: {error}") from error
    what = f"run {experiment.run.name} in {experiment.run.storage}"
    config.refuse_changes(what, config.differences(written, experiment), option="--run.name")


class RunLog:
    """The metrics of a run, as JSON lines, TensorBoard events and, at the end, parquet. One process writes.

    Rows beyond ``step`` come from an attempt whose work was lost, and are dropped.
    """

    def __init__(self, run: Storage, experiment: Experiment, *, step: int, attempt: Row):
        self._run = run
        attempts = [*read_attempts(run), attempt]
        run.write("attempts.jsonl", _lines(attempts))
        if not run.exists("experiment.json"):
            run.write("experiment.json", config.to_json(experiment).encode())
        self._rows = [row for row in read_rows(run) if row["step"] <= step]
        run.write("metrics.jsonl", _lines(self._rows))
        self._temporary = None if run.is_local else tempfile.TemporaryDirectory()
        events = self._temporary.name if self._temporary else run.path("tensorboard")
        self._events = Path(events)
        self._board = SummaryWriter(events, purge_step=step + 1 if step else None)

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        self._rows.append(row)
        self._run.write("metrics.jsonl", _lines(self._rows))
        for key, value in _scalars(row).items():
            if key != "time":
                self._board.add_scalar(_tag(row, key), value, row["step"], walltime=row["time"])
        for cause, line in row.get("warnings", {}).items():
            self._board.add_text(f"embedding/{cause}", line, row["step"], walltime=row["time"])
        self._flush()

    @property
    def rows(self) -> list[Row]:
        """All rows of the run so far, those of earlier attempts included."""
        return self._rows

    def last(self, kind: str) -> Row:
        """The newest row of a kind."""
        return next(row for row in reversed(self._rows) if row["kind"] == kind)

    def finish(self, result: Row) -> None:
        """Write the table of all rows, and last what marks the run as finished."""
        rows = [{"kind": row["kind"]} | _scalars(row) for row in self._rows]
        columns = dict.fromkeys(key for row in rows for key in row)
        table = pa.table({key: [row.get(key) for row in rows] for key in columns})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self._run.write("metrics.parquet", sink.getvalue().to_pybytes())
        self._run.write("result.json", json.dumps(result, indent=2).encode())

    def close(self) -> None:
        """Release the TensorBoard writer; also after an error."""
        self._board.close()
        self._flush()
        if self._temporary:
            self._temporary.cleanup()

    def _flush(self) -> None:
        self._board.flush()
        if self._temporary:
            self._run.upload(self._events, "tensorboard")


def _tag(row: Row, key: str) -> str:
    """TensorBoard's name of a number."""
    is_embedding = row["kind"] == "train" and key.partition("/")[0] in _EMBEDDING
    return f"{'embedding' if is_embedding else row['kind']}/{key}"


def _scalars(row: Row) -> dict[str, Any]:
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
