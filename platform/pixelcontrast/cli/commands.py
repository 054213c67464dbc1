"""The command ``pixelcontrast``: looking at runs and searches."""

import time
from typing import Annotated

import tyro

from pixelcontrast.cli.terminal import failures_told

_Location = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_SEARCH")]


def command() -> None:
    """The console script."""
    tyro.extras.subcommand_cli_from_dict(
        {"dashboard": dashboard, "report": report},
        prog="pixelcontrast",
        description="Look at runs and searches. What trains is an experiment file: see experiments/.",
    )


def dashboard(location: _Location, port: int | None = None) -> None:
    """Open the pages that compare a search's trials, or show a run, live; until Ctrl-C.

    Args:
        location: the folder of a run or a search, or a URI that pyarrow reads.
        port: of the first page, the second gets the next one; unset: free ones.
    """
    from pixelcontrast.dashboard import describe, serve

    with failures_told(resume="The search itself, if it runs, goes on."), serve(location, port=port) as pages:
        print(describe(pages), flush=True)
        while True:
            time.sleep(3600)


def report(location: _Location) -> None:
    """Write report.html, one file that needs nothing else, and of a search trials.parquet and trials.csv.

    Args:
        location: the folder of a run or a search, or a URI that pyarrow reads.
    """
    from pixelcontrast.reports import write_report

    with failures_told(resume="The same command begins again."):
        print(write_report(location))
