"""The command ``pixelcontrast``: looking at runs and searches."""

import sys
import time
from typing import Annotated

import tyro

from pixelcontrast.cli.terminal import failures_told

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_Location = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_SEARCH")]


def command() -> None:
    """The console script."""
    tyro.extras.subcommand_cli_from_dict(
        {"dashboard": dashboard, "report": report, "verify": verify},
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


def verify(run: _Run) -> None:
    """Compare every file of a run with what was written, and with each other; change nothing.

    Ends with status 1 if a file is damaged; every such file is named.

    Args:
        run: the folder of a run that is not running now, or a URI that pyarrow reads.
    """
    from pixelcontrast import training

    damaged = 0
    with failures_told(resume="Nothing was changed."):
        for state, name, text in training.verify(run):
            damaged += state == "DAMAGED"
            print(f"{state:9}  {name}  {text}", flush=True)
    print(f"{run}: {f'{damaged} damaged' if damaged else 'all well'}")
    sys.exit(damaged > 0)
