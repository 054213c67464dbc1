"""What an experiment file's command does: train, search the space, or compare the arms."""

from collections.abc import Callable, Sequence

from pixelcontrast.cli.options import Command, parse_command
from pixelcontrast.cli.search import search_space, study_arms
from pixelcontrast.cli.terminal import failures_told, messages_shown, refuse
from pixelcontrast.cluster.paths import check_job_paths
from pixelcontrast.config import Experiment
from pixelcontrast.search import Search


def main(
    experiment: Experiment,
    *,
    search: Search | None = None,
    prepare: Callable[[Experiment], None] | None = None,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> None:
    """What an experiment file ends with: change the settings from the command line, then train or search.

    Args:
        search: the space that ``--search.trials N`` searches, and the arms that ``--search.arms`` compares.
        prepare: called with the changed experiment first, to make data that are not there; a ``ValueError``
            of its own ends the command with that message.
        args: the options; None for those of the command line.
    """
    search = search or Search()
    command = parse_command(experiment, search, description=description, args=args)
    with failures_told(resume="The same command begins again."):
        check_job_paths(command.experiment)
        if prepare is not None:
            prepare(command.experiment)
    if command.search.trials is not None and command.arms is not None:
        refuse("--search.trials searches the space and --search.arms compares arms: give one of them")
    if command.search.trials is not None:
        search_space(command.experiment, command.search)
    elif command.arms is not None:
        study_arms(command.experiment, command.search, command.arms)
    else:
        _refuse_idle_options(command, search)
        run(command.experiment)


def run(experiment: Experiment) -> None:
    """Train under Ray to the end, showing progress; a finished run only shows its result.

    Ends the process with status 2 where something is wrong before the start and 1 where the run failed; with
    130 on Ctrl-C and 143 on SIGTERM, after a checkpoint.
    """
    from pixelcontrast import training
    from pixelcontrast.cluster.train.launch import launch
    from pixelcontrast.cluster.train.progress import TrainingProgress, print_evaluation
    from pixelcontrast.runs.run_folder import open_storage

    with failures_told(resume="Rerun the command to resume from the newest checkpoint."):
        result = training.check(experiment)
        if result is None:
            print(f"Run {experiment.run.name}: {_describe(experiment, training.memory_bytes(experiment))}")
            with TrainingProgress() as progress, messages_shown():
                launch(experiment, on_row=progress.row)
            result = training.check(experiment)
        else:
            print(f"Run {experiment.run.name} is finished; choose another --run.name to start a new one.")
    assert result is not None, "a run that ended without an error has a result"
    print_evaluation(result)
    folder = open_storage(experiment)
    print(f"\nresult       {(folder / 'result.json').location}")
    print(f"predictions  {(folder / result['overlays']).location}")
    print(f"best network {(folder / result['best_checkpoint'] / 'model.safetensors').location}")


def _refuse_idle_options(command: Command, search: Search) -> None:
    if command.search != search:
        refuse("options of --search need --search.trials N, to search, or --search.arms, to compare arms")


def _describe(experiment: Experiment, memory: int) -> str:
    data, optim, run = experiment.data, experiment.optim, experiment.run
    return (
        f"{experiment.model.backbone} on {data.layout} in {data.root}, {optim.steps} steps of "
        f"{optim.batch_size} images, workers {run.workers}, in {run.storage}"
        + (f"; memory of {memory / 1e6:,.1f} MB per worker" if memory else "")
    )
