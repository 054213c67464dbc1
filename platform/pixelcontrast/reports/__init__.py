"""Reports: one HTML file of a run, a search, or several runs that needs nothing else; trials as a table."""

import hashlib
import json
import posixpath
import time
from collections.abc import Sequence

from pixelcontrast.reports import table
from pixelcontrast.reports.arms_page import arms_page
from pixelcontrast.reports.run_page import run_page
from pixelcontrast.reports.runs_page import runs_page
from pixelcontrast.reports.search_page import search_page
from pixelcontrast.runs import pictures
from pixelcontrast.runs.record import RunRecord
from pixelcontrast.runs.search_record import SearchRecord
from pixelcontrast.search.reading import read
from pixelcontrast.storage import Storage, one_line

__all__ = ["pictures_folder", "write_comparison", "write_report"]

REPORT, PARQUET, CSV = "report.html", "trials.parquet", "trials.csv"


def write_report(location: str) -> str:
    """Write ``report.html`` into a run's or a search's folder; of a search also its trials as a table.

    Trials may be running, stopped early or failed, and none need be complete.

    Args:
        location: of the folder; a path, or a URI that ``pyarrow.fs`` reads.

    Returns:
        The report's path, or its URI.

    Raises:
        ValueError: the folder is neither a run's nor a search's, or cannot be read or written.
    """
    found = read(location)
    if isinstance(found, SearchRecord):
        make = arms_page if found.kind == "arms" else search_page
        content = make(found, written=time.time())
        rows = table.trials_table(found)
        files = {PARQUET: table.to_parquet(rows), CSV: table.to_csv(rows), REPORT: content.encode()}
    else:
        files = {REPORT: run_page(found, written=time.time()).encode()}
    return [_write(found.storage, name, data) for name, data in files.items()][-1]


def write_comparison(locations: Sequence[str]) -> str:
    """Write a report of several runs side by side, each against the first, into the first one's storage.

    The runs may be of any experiments, trials of searches among them, and none need be finished.

    Args:
        locations: of two or more runs' folders.

    Returns:
        The report's path, or its URI.

    Raises:
        ValueError: one is given twice, is no run's folder, or cannot be read; the report cannot be written.
    """
    runs = _runs(locations)
    content = runs_page(runs, inspected=_pictures_folder(runs), written=time.time())
    return _write(runs[0].storage.parent, f"{_comparison(runs)}.html", content.encode())


def pictures_folder(locations: Sequence[str]) -> Storage:
    """Where reports of a run, or of several side by side, look for what ``pixelcontrast inspect`` drew.

    Args:
        locations: of one or more runs' folders.

    Raises:
        ValueError: one is given twice, is no run's folder, or cannot be read.
    """
    return _pictures_folder(_runs(locations))


def _pictures_folder(runs: Sequence[RunRecord]) -> Storage:
    first = runs[0].storage
    return first / pictures.FOLDER if len(runs) == 1 else first.parent / f"{_comparison(runs)}-pictures"


def _runs(locations: Sequence[str]) -> list[RunRecord]:
    runs: list[RunRecord] = []
    for location in locations:
        found = read(location)
        if isinstance(found, SearchRecord):
            raise ValueError(f"{location} is a search: report it alone, or name runs in it, as {location}/…")
        if any(run.storage.root == found.storage.root for run in runs):
            raise ValueError(f"{location} is given twice; name different runs")
        runs.append(found)
    return runs


def _comparison(runs: Sequence[RunRecord]) -> str:
    """The name of a comparison's files, without ending; others have those of other runs."""
    others = runs[1].name if len(runs) == 2 else f"{len(runs) - 1}-others"
    folder = runs[0].storage.parent.root
    places = json.dumps([posixpath.relpath(run.storage.root, folder) for run in runs])
    return f"report-{runs[0].name}-{others}-{hashlib.sha256(places.encode()).hexdigest()[:6]}"


def _write(folder: Storage, name: str, content: bytes) -> str:
    """Returns the file's path or URI."""
    try:
        folder.write(name, content)
    except OSError as error:
        raise ValueError(f"{folder.location} cannot be written: {one_line(error)}") from error
    return folder.path(name) if folder.is_local else (folder / name).location
