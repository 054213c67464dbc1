"""The command ``pixelcontrast``: from the images to a trained network, and what to look at afterwards."""

import functools
import operator
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

import pixelcontrast
from pixelcontrast import runs
from pixelcontrast.cli.data import data_command
from pixelcontrast.cli.evaluate import evaluate
from pixelcontrast.cli.experiment import run
from pixelcontrast.cli.export import export
from pixelcontrast.cli.inspect import inspect
from pixelcontrast.cli.options import parse_options
from pixelcontrast.cli.predict import predict
from pixelcontrast.cli.terminal import failures_told, refuse
from pixelcontrast.config import ClassOrder, Layout, Run, Workers, explain

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_Result = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")]
_File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_EXPERIMENT_JSON")]
_Others = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]", help_behavior_hint="")
]
_Location = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_SEARCH")]

_DESCRIPTION = """\
Train semantic segmentation networks with pixel-wise contrast.

An experiment is a Python file: python experiments/camvid.py --help.

The commands here are for what comes before and after it.

pixelcontrast --version prints the version."""


def command() -> None:
    """The console script."""
    with failures_told(resume="Rerun the command to start."):
        _dispatch(sys.argv[1:])


def _dispatch(arguments: Sequence[str]) -> None:
    match arguments:
        case ["--version"]:
            print(f"pixelcontrast {pixelcontrast.__version__}")
        case ["data", *options]:
            data_command(options)
        case ["train", file, *options] if not file.startswith("-"):
            # The file decides the options' defaults, so it is read before them.
            _train(file, options)
        case [name, *options] if name in COMMANDS:
            tyro.cli(COMMANDS[name], prog=f"pixelcontrast {name}", args=options)
        case _:
            _overview(arguments or ["--help"])


def _overview(arguments: Sequence[str]) -> None:
    """Show the help, of each command its first line; or refuse what is no command."""
    choices: list[Any] = [
        Annotated[Any, tyro.conf.subcommand(name, constructor=function, description=_first_line(function))]
        for name, function in COMMANDS.items()
    ]
    tyro.cli(
        functools.reduce(operator.or_, choices),
        prog="pixelcontrast",
        description=_DESCRIPTION,
        args=arguments,
    )


def _first_line(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def data() -> None:
    """Prepare a data set: data init, check, show, pack."""
    data_command(["--help"])


def train(experiment: _File) -> None:
    """Train again what the experiment.json of a run or a checkpoint records, with any setting changed.

    Every setting is an option after it: ``pixelcontrast train RUN_OR_EXPERIMENT_JSON --help`` lists them.

    Args:
        experiment: the folder of a run or a checkpoint, or its experiment.json; or a URI that pyarrow reads.
    """
    _train(experiment, [])


def _train(file: str, options: Sequence[str]) -> None:
    from pixelcontrast.runs import read_experiment_file

    experiment = read_experiment_file(file)
    text, program = f"Train again what {file} records.", shlex.join(["pixelcontrast", "train", file])
    run(parse_options(experiment, (), description=text, program=program, args=options)[1])


def report(location: _Location, others: _Others = ()) -> None:
    """Write a run or a search, or several runs side by side, as one HTML file.

    It is report.html in the folder of the run or the search. Beside that of a search, trials.parquet and
    trials.csv have the trials as a table. Several runs, each compared with the first, are written to
    report-<first>-<second>-….html beside the first run's folder. What pixelcontrast inspect has drawn of
    these runs is a part of it.

    Args:
        location: the folder of a run or a search, or a URI that pyarrow reads.
        others: runs to compare with that run.
    """
    from pixelcontrast.reports import write_comparison, write_report

    print(write_comparison([location, *others]) if others else write_report(location))


def dashboard(location: _Location, port: int | None = None) -> None:
    """Watch a run or a search in the browser while it trains; until Ctrl-C.

    Args:
        location: the folder of a run or a search, or a URI that pyarrow reads.
        port: port of the first page, the second page gets the next one; unset: any free ports.
    """
    from pixelcontrast.dashboard import describe, serve

    with (
        failures_told(resume="A run or search that is training continues."),
        serve(location, port=port) as pages,
    ):
        print(describe(pages), flush=True)
        while True:
            time.sleep(3600)


def verify(run: _Run) -> None:
    """Check every file of a run against its checksum, and against the other files; change nothing.

    The status is 1 if a file is damaged; every damaged file is named.

    Args:
        run: the folder of a run that is not training now, or a URI that pyarrow reads.
    """
    from pixelcontrast import training

    damaged = 0
    for state, name, text in training.verify(run):
        damaged += state == "DAMAGED"
        print(f"{state:9}  {name}  {text}", flush=True)
    print(f"{run}: {f'{damaged} damaged' if damaged else 'all well'}")
    sys.exit(damaged > 0)


def reproduce(result: _Result) -> None:
    """Print the commands that train a recorded result again, from the beginning.

    Args:
        result: a run's folder or its result.json, or a checkpoint's folder; or a URI that pyarrow reads.
    """
    print(runs.reproduce(result))


def doctor(
    storage: str | None = None,
    data: str | None = None,
    layout: Layout | None = None,
    class_order: ClassOrder | None = None,
    workers: str = "1",
    cpus_per_worker: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    node_timeout: float = 0.0,
) -> None:
    """Check that this machine, or the cluster in RAY_ADDRESS, has all that a run needs.

    The status is 1 if something is missing; every finding comes with its remedy.

    Args:
        storage: a folder, or a URI that pyarrow reads; every node writes to it and reads back.
        data: the data set's folder or its pack, which every node must be able to read.
        layout: layout of the data set; with it, the data set's files are looked at, too.
        class_order: order of PASCAL-Context's classes.
        workers: number of workers that must fit: N, or MIN:MAX.
        cpus_per_worker: CPU cores that each worker reserves.
        device: auto asks for a GPU per worker where the cluster has GPUs.
        node_timeout: seconds that the run would wait for nodes that an autoscaler starts.
    """
    from pixelcontrast.cli.tables import show_findings
    from pixelcontrast.cluster.doctor.diagnose import Wanted, diagnose

    for option, value in (("--layout", layout), ("--class-order", class_order)):
        if value is not None and data is None:
            refuse(f"{option} {value}: there is no --data to look at; give the data set's folder, too")
    try:
        count = Workers.parse(workers)
        asked = Run(
            name="doctor",
            workers=count,
            cpus_per_worker=cpus_per_worker,
            device=device,
            node_timeout=node_timeout,
        )
    except ValueError as error:
        refuse(explain(error))
    wanted = Wanted(storage=storage, data=data, layout=layout, class_order=class_order, run=asked)
    findings = diagnose(wanted)
    show_findings(findings)
    sys.exit(any(finding.remedy for finding in findings))


COMMANDS: Mapping[str, Callable[..., None]] = {
    "data": data,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "report": report,
    "inspect": inspect,
    "dashboard": dashboard,
    "verify": verify,
    "reproduce": reproduce,
    "doctor": doctor,
}
"""Name → what it runs, in the order of the journey, which is the order of the help."""
