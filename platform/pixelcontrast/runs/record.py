"""The reader of runs: what a run's folder holds, as one record, for terminal, report and dashboard alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.runs.checkpoint import MANIFEST
from pixelcontrast.runs.run_folder import (
    EXPERIMENT,
    Row,
    read_attempts,
    read_experiment,
    read_result,
    read_rows,
)
from pixelcontrast.runs.summary import summarize
from pixelcontrast.storage import Storage, one_line

SEARCH = "search.json"
"""The file that makes a folder a search's."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, as far as it has come.

    Attributes:
        name: of its folder.
        experiment: its configuration.
        rows: of metrics, in order.
        attempts: a row for each start of its workers.
        result: what it wrote at its end; None while it is not finished.
    """

    name: str
    storage: Storage
    experiment: Experiment
    rows: list[Row]
    attempts: list[Row]
    result: Row | None

    @property
    def finished(self) -> bool:
        """Whether it has trained to its last step."""
        return self.result is not None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key → JSON value of the configuration."""
        return config.flatten(self.experiment)

    @property
    def trained(self) -> list[Row]:
        """The training rows."""
        return [row for row in self.rows if row["kind"] == "train"]

    @property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations."""
        return [row for row in self.rows if row["kind"] == "eval"]

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """What ``runs.summary.summarize`` gives."""
        return summarize(self.rows, self.attempts, batch_size=self.experiment.optim.batch_size)


def read_run(run: Storage) -> RunRecord:
    """Read a run's folder.

    Raises:
        ValueError: this version cannot read its configuration; one line names the file and the key.
        OSError: the storage cannot be read, or has no run here.
    """
    return RunRecord(
        name=folder_name(run),
        storage=run,
        experiment=read_experiment(run),
        rows=read_rows(run),
        attempts=read_attempts(run),
        result=read_result(run),
    )


def read_summary(run: Storage) -> dict[str, Any]:
    """``RunRecord.summary``, also of a run that failed before it wrote its configuration."""
    if run.exists(EXPERIMENT):
        return dict(read_run(run).summary)
    return {"attempts": len(read_attempts(run))}


def kind_of(folder: Storage) -> Literal["run", "search"]:
    """What lies in a folder.

    Raises:
        ValueError: neither a run nor a search, or the storage cannot be read.
    """
    try:
        if folder.exists(SEARCH):
            return "search"
        if folder.exists(MANIFEST):
            raise ValueError(f"{folder.location} is a checkpoint; allowed is the folder of its run")
        if folder.exists(EXPERIMENT):
            return "run"
    except OSError as error:
        raise ValueError(f"{folder.location} cannot be read: {one_line(error)}") from error
    raise ValueError(
        f"{folder.location} is neither a run's folder, which has {EXPERIMENT}, nor a search's, which has "
        f"{SEARCH}"
    )


def folder_name(folder: Storage) -> str:
    """The folder's own name, also where its location is ``.`` or a link."""
    root = str(Path(folder.root).resolve()) if folder.is_local else folder.root
    return root.rstrip("/").rsplit("/", 1)[-1]
