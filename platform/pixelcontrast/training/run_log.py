"""The metrics of a run as it trains: JSON lines, TensorBoard events, and parquet at the end."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pixelcontrast.config import PLACEMENT, Experiment, flatten
from pixelcontrast.runs import run_folder
from pixelcontrast.runs.checkpoint import folder_of
from pixelcontrast.runs.run_folder import Row, scalars
from pixelcontrast.storage import Storage

_EMBEDDING = frozenset(
    {"hard_anchors", "batch_positive_similarity", "batch_negative_similarity", "memory_positive_similarity"}
    | {"memory_negative_similarity", "gap", "class_gap", "mean_embedding_norm", "memory_age"}
    | {"gradient_ratio", "gradient_cosine"}
)
"""Training figures that TensorBoard shows together, as ``embedding/gap``."""
_NO_FIGURES = frozenset({"time", "attempt", "step", "steps"})
"""Numbers of a row that say where it belongs."""


class RunLog:
    """The metrics of a run, as JSON lines, TensorBoard events and, at the end, parquet. One process writes.

    A run that begins, or begins again at step 0, records its configuration; a resumed run's stays as it is.

    Rows beyond ``step`` come from an attempt whose work was lost, and are dropped.
    """

    def __init__(self, run: Storage, experiment: Experiment, *, step: int, attempt: Row):
        self._run = run
        if step == 0:
            run_folder.write_experiment(run, experiment)
        run_folder.add_attempt(run, attempt)
        self._rows = [row for row in run_folder.read_rows(run) if row["step"] <= step]
        run_folder.write_rows(run, self._rows)
        self._temporary = None if run.is_local else tempfile.TemporaryDirectory()
        events = self._temporary.name if self._temporary else run.path("tensorboard")
        self._events = Path(events)
        self._board = SummaryWriter(events, purge_step=step + 1)
        self._add_settings(experiment)

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        self._rows.append(row)
        run_folder.add_row(self._run, self._rows)
        for key, value in scalars(row).items():
            if key not in _NO_FIGURES:
                self._board.add_scalar(_tag(row, key), value, row["step"], walltime=row["time"])
        for cause, line in row.get("warnings", {}).items():
            self._board.add_text(f"embedding/{cause}", line, row["step"], walltime=row["time"])
        self._flush()

    def add_picture(self, name: str, png: bytes, step: int) -> None:
        """Show a PNG file's picture in TensorBoard."""
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._board.add_image(name, pixels, step, dataformats="HWC")

    @property
    def rows(self) -> list[Row]:
        """All rows of the run so far, those of earlier attempts included."""
        return self._rows

    def evaluation(self, step: int) -> Row:
        """The evaluation of a step; raises ``ValueError`` where the file of metrics has lost it."""
        for row in reversed(self._rows):
            if row["kind"] == "eval" and row["step"] == step:
                return row
        raise ValueError(
            f"{self._run.location}: {run_folder.METRICS} has lost the evaluation of step {step}, which the "
            f"result is made of. Restore the file; or delete {folder_of(step)}, and the run resumes from the "
            "checkpoint before and evaluates again"
        )

    def finish(self, result: Row) -> None:
        """Write the table of all rows, and last what marks the run as finished."""
        run_folder.write_table(self._run, self._rows)
        run_folder.write_result(self._run, result)

    def close(self) -> None:
        """Release the TensorBoard writer; also after an error."""
        self._board.close()
        self._flush()
        if self._temporary:
            self._temporary.cleanup()

    def _add_settings(self, experiment: Experiment) -> None:
        """For TensorBoard's table of hyper-parameters; ``add_hparams`` would make a run of its own."""
        settings = {
            key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for key, value in flatten(experiment).items()
            if key not in PLACEMENT
        }
        assert self._board.file_writer is not None, "it is open"
        for summary in hparams(settings, {"eval/miou": 0.0}):
            self._board.file_writer.add_summary(summary)

    def _flush(self) -> None:
        self._board.flush()
        if self._temporary:
            self._run.upload(self._events, "tensorboard")


def _tag(row: Row, key: str) -> str:
    """TensorBoard's name of a number; evaluations of every class, which are many, are groups of their own."""
    if row["kind"] == "eval" and "/" in key:
        return key
    is_embedding = row["kind"] == "train" and key.partition("/")[0] in _EMBEDDING
    return f"{'embedding' if is_embedding else row['kind']}/{key}"
