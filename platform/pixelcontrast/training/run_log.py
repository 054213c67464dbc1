"""The metrics of a run as it trains: JSON lines, TensorBoard events, and parquet at the end."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pixelcontrast.config import PLACEMENT, Experiment, flatten
from pixelcontrast.runs import run_folder
from pixelcontrast.runs.checkpoint import folder_of
from pixelcontrast.runs.launch_mark import unchecked
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
_UPLOAD_INTERVAL_S = 60.0
"""Between two uploads of training rows: object stores take whole files only, and these grow with the run."""


class RunLog:
    """The metrics of a run, as JSON lines, TensorBoard events and, at the end, parquet. One process writes.

    A run that begins, or begins again at step 0, records its configuration; a resumed run's stays as it is.

    Rows beyond ``step`` come from an attempt whose work was lost, and are dropped.

    On a local disk every row is written at once. An object store gets what is new with each evaluation, with
    each call of ``upload``, and in between at most once a minute.

    Args:
        check_ours: called before what is left is uploaded at the end; raises ``ValueError`` where the run is
            another driver's by now.
    """

    def __init__(
        self,
        run: Storage,
        experiment: Experiment,
        *,
        step: int,
        attempt: Row,
        check_ours: Callable[[], None] = unchecked,
    ):
        self._run, self._check_ours = run, check_ours
        if step == 0:
            run_folder.write_experiment(run, experiment)
        run_folder.add_attempt(run, attempt)
        self._rows = [row for row in run_folder.read_rows(run) if row["step"] <= step]
        run_folder.write_rows(run, self._rows)
        self._uploaded_rows, self._uploaded_at = len(self._rows), monotonic()
        self._uploaded_sizes: dict[str, int] = {}
        """Files of events in the object store → bytes; such a file only grows."""
        self._temporary = None if run.is_local else tempfile.TemporaryDirectory()
        events = self._temporary.name if self._temporary else run.path("tensorboard")
        self._events = Path(events)
        self._board = SummaryWriter(events, purge_step=step + 1)
        self._add_settings(experiment)

    def add(self, row: Row) -> None:
        """Append a row. On a local disk it is there when this returns, and so is an evaluation elsewhere."""
        self._rows.append(row)
        if self._run.is_local:
            run_folder.add_row(self._run, row)
        for key, value in scalars(row).items():
            if key not in _NO_FIGURES:
                self._board.add_scalar(_tag(row, key), value, row["step"], walltime=row["time"])
        for cause, line in row.get("warnings", {}).items():
            self._board.add_text(f"embedding/{cause}", line, row["step"], walltime=row["time"])
        self._board.flush()
        if row["kind"] == "eval" or monotonic() - self._uploaded_at >= _UPLOAD_INTERVAL_S:
            self.upload()

    def add_picture(self, name: str, png: bytes, step: int) -> None:
        """Show a PNG file's picture in TensorBoard."""
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._board.add_image(name, pixels, step, dataformats="HWC")
        if self._temporary:  # else the picture would be uploaded again with all that follows in its file
            self._board.close()
            self._board = SummaryWriter(self._events)

    def upload(self) -> None:
        """Copy what is new into the object store; on a local disk it is there already.

        Call it before a checkpoint is written: a resumed run needs all rows up to its checkpoint.
        """
        if not self._temporary:
            return
        if self._uploaded_rows < len(self._rows):
            run_folder.write_rows(self._run, self._rows)
            self._uploaded_rows = len(self._rows)
        self._board.flush()
        for file in sorted(self._events.iterdir()):
            size = file.stat().st_size
            if self._uploaded_sizes.get(file.name) != size:
                self._run.upload(file, f"tensorboard/{_in_order(file.name)}")
                self._uploaded_sizes[file.name] = size
        self._uploaded_at = monotonic()

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
        self.upload()
        run_folder.write_table(self._run, self._rows)
        run_folder.write_result(self._run, result)

    def close(self) -> None:
        """Write what is left and release the TensorBoard writer; also after an error."""
        self._board.close()
        try:
            if self._temporary:
                self._check_ours()
            self.upload()
        finally:
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


def _in_order(name: str) -> str:
    """A file's name with a padded number, its last part: TensorBoard reads files in the order of their names,
    and drops what it read before a smaller step, as .9 of the same second after .10."""
    head, _, number = name.rpartition(".")
    return f"{head}.{number:0>6}"


def _tag(row: Row, key: str) -> str:
    """TensorBoard's name of a number; evaluations of every class, which are many, are groups of their own."""
    if row["kind"] == "eval" and "/" in key:
        return key
    is_embedding = row["kind"] == "train" and key.partition("/")[0] in _EMBEDDING
    return f"{'embedding' if is_embedding else row['kind']}/{key}"
