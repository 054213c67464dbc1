"""What an experiment's file runs: a training, a search, or a comparison of arms."""

from collections.abc import Callable, Sequence

from pixelcontrast.cli.search import search_space, study_arms
from pixelcontrast.cli.terminal import failures_told, messages_shown
from pixelcontrast.cli.verbs import parse_command
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.paths import reachable_paths
from pixelcontrast.config import Experiment
from pixelcontrast.search import Search
from pixelcontrast.words import count


def main(
    experiment: Experiment,
    *,
    search: Search | None = None,
    prepare: Callable[[Experiment], None] | None = None,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> None:
    """What an experiment's file ends with: read the command line, then train, search or compare.

    Args:
        search: the space of the command ``search``, and the arms of ``compare``.
        prepare: called first, with the changed experiment, its paths absolute, to make data that are not
            there; a ``ValueError`` of its own ends the command with that message.
        args: what follows the file's name; None for the command line.
    """
    with failures_told(resume="Rerun the command to start."):
        command = parse_command(experiment, search or Search(), description=description, args=args)
        changed = reachable_paths(command.experiment)
        if prepare is not None:
            prepare(changed)
    match command.verb:
        case "train":
            run(changed)
        case "search":
            search_space(changed, command.search)
        case "compare":
            study_arms(changed, command.search, command.arms)


@failures_told(resume="Rerun the command to resume from the newest checkpoint.")
def run(experiment: Experiment) -> None:
    """Train under Ray to the end, showing progress; a finished run only shows its result.

    Ends the process with status 2 where something is wrong before the start and 1 where the run failed; with
    130 on Ctrl-C and 143 on SIGTERM, after a checkpoint.
    """
    from pixelcontrast import training
    from pixelcontrast.cluster.train.launch import launch
    from pixelcontrast.cluster.train.progress import TrainingProgress, print_evaluation
    from pixelcontrast.runs.run_folder import RESULT, open_storage

    experiment = reachable_paths(experiment)
    with messages_shown():
        result = training.check(experiment)
    if result is None:
        memory = training.memory_bytes(experiment)
        print(f"Run {experiment.run.name}: {_describe(experiment, memory)}")
        with TrainingProgress() as progress, messages_shown():
            launch(experiment, on_row=progress.row, memory=memory, on_stage=progress.stage)
        result = training.check(experiment)
    else:
        print(f"Run {experiment.run.name} is finished; choose another --run.name to start a new one.")
    folder = open_storage(experiment)
    if result is None:
        raise LaunchError(
            f"the training ended without an error, but {folder.location} has no {RESULT}: the workers "
            "wrote it elsewhere, or it was deleted",
            "run.storage must be a folder that all nodes share, or a URI such as s3://bucket/runs.",
        )
    print_evaluation(result)
    print(f"\nresult       {(folder / 'result.json').location}")
    print(f"predictions  {(folder / result['overlays']).location}")
    best = folder / result["best_checkpoint"]
    print(f"best network {(best / 'model.safetensors').location if best.exists() else 'deleted'}")


def _describe(experiment: Experiment, memory: int) -> str:
    data, optim, run = experiment.data, experiment.optim, experiment.run
    return (
        f"{experiment.model.backbone} on {data.layout} in {data.root}, {count(optim.steps, 'step')} of "
        f"{count(optim.batch_size, 'image')}, workers {run.workers}, in {run.storage}"
        + (f"; memory of {memory / 1e6:,.1f} MB per worker" if memory else "")
    )
