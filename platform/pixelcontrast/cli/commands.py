"""The command ``pixelcontrast``: looking at machines, runs and searches, and training what a run records."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from pixelcontrast.cli.data import data_command
from pixelcontrast.cli.evaluate import evaluate
from pixelcontrast.cli.experiment import main
from pixelcontrast.cli.export import export
from pixelcontrast.cli.predict import predict
from pixelcontrast.cli.terminal import failures_told, refuse
from pixelcontrast.config import Layout, Run, Workers, explain

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_Result = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")]
_File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
_Location = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_SEARCH")]


def command() -> None:
    """The console script."""
    # The file decides the options' defaults, so it is read before them.
    match sys.argv[1:]:
        case ["train", file, *options] if not file.startswith("-"):
            return _train(file, options)
        case ["data", *options]:
            return data_command(options)
    commands = (dashboard, data, doctor, evaluate, export, predict, report, reproduce, train, verify)
    return tyro.extras.subcommand_cli_from_dict(
        {function.__name__: function for function in commands},
        prog="pixelcontrast",
        description="Look at machines, runs and searches. Experiment files train: see experiments/.",
    )


def dashboard(location: _Location, port: int | None = None) -> None:
    """Open the pages that compare a search's trials, or show a run, live; until Ctrl-C.

    Args:
        location: the folder of a run or a search, or a URI that pyarrow reads.
        port: of the first page, the second gets the next one; unset: free ones.
    """
    from pixelcontrast.dashboard import describe, serve

    with (
        failures_told(resume="The search itself, if it runs, continues."),
        serve(location, port=port) as pages,
    ):
        print(describe(pages), flush=True)
        while True:
            time.sleep(3600)


def data() -> None:
    """Describe your own images (data init), look at every file of a data set (data check)."""
    data_command(["--help"])


def doctor(
    storage: str | None = None,
    data: str | None = None,
    layout: Layout | None = None,
    workers: str = "1",
    cpus_per_worker: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Look whether everything is there that a run needs: on the cluster in RAY_ADDRESS, else on this machine.

    Ends with status 1 if something has to be done; every such thing has its remedy.

    Args:
        storage: write and read back here, from every node: a folder, or a URI that pyarrow reads.
        data: the data set's folder, to be read on every node.
        layout: of the data set: its files are then looked at, too.
        workers: that shall get a place: N, or MIN:MAX.
        cpus_per_worker: that each of them reserves.
        device: auto asks for a GPU per worker where the cluster has GPUs.
    """
    from pixelcontrast.cli.tables import show_findings
    from pixelcontrast.cluster.doctor.diagnose import Wanted, diagnose

    with failures_told(resume="Nothing was changed."):
        try:
            count = Workers.parse(workers)
            asked = Run(name="doctor", workers=count, cpus_per_worker=cpus_per_worker, device=device)
        except ValueError as error:
            refuse(explain(error))
        findings = diagnose(Wanted(storage=storage, data=data, layout=layout, run=asked))
    show_findings(findings)
    sys.exit(any(finding.remedy for finding in findings))


def report(location: _Location) -> None:
    """Write report.html, one file that needs nothing else, and of a search trials.parquet and trials.csv.

    Args:
        location: the folder of a run or a search, or a URI that pyarrow reads.
    """
    from pixelcontrast.reports import write_report

    with failures_told(resume="The same command begins again."):
        print(write_report(location))


def reproduce(result: _Result) -> None:
    """Print the commands that train again, from the beginning, what a result or a checkpoint records.

    Args:
        result: a run's folder or its result.json, or a checkpoint's folder; or a URI that pyarrow reads.
    """
    from pixelcontrast import runs

    with failures_told(resume="Nothing was changed."):
        print(runs.reproduce(result))


def train(experiment: _File) -> None:
    """Train what an experiment.json of a run or a checkpoint records, under the same name or another.

    All its settings are options, to be given after it: ``pixelcontrast train FILE --help`` lists them.

    Args:
        experiment: the file, or a URI that pyarrow reads.
    """
    _train(experiment, [])


def _train(file: str, options: Sequence[str]) -> None:
    from pixelcontrast.runs import read_experiment_file

    with failures_told(resume="The same command begins again."):
        experiment = read_experiment_file(file)
    main(experiment, args=options, description=f"Train what {file} records.")


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
