"""Reports: one HTML file of a run or a search that needs nothing else, and the trials as a table."""

import time

from pixelcontrast.reports import table
from pixelcontrast.reports.arms_page import ArmsComparison, arms_page, compare_record
from pixelcontrast.reports.run_page import run_page
from pixelcontrast.reports.search_page import search_page
from pixelcontrast.runs.search_record import SearchRecord
from pixelcontrast.search.reading import read

__all__ = ["ArmsComparison", "compare_arms", "write_report"]

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
    try:
        for name, data in files.items():
            found.storage.write(name, data)
    except OSError as error:
        raise ValueError(f"{location} cannot be written: {error}") from error
    return found.storage.path(REPORT) if found.storage.is_local else (found.storage / REPORT).location


def compare_arms(location: str) -> ArmsComparison:
    """The statistics of an arms study's folder; raises ``ValueError`` where there is none."""
    found = read(location)
    if not isinstance(found, SearchRecord) or found.kind != "arms":
        raise ValueError(f"{location} holds no comparison of arms")
    return compare_record(found)
