"""The command line of an experiment: its settings as options, its progress, its result."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import tyro
from pydantic import ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from pixelcontrast import config
from pixelcontrast.config import Experiment, Workers


def main(experiment: Experiment, *, description: str | None = None) -> None:
    """What an experiment file ends with: change the settings from the command line, and train."""
    run(parse(experiment, description=description))


def parse(
    experiment: Experiment, *, description: str | None = None, args: Sequence[str] | None = None
) -> Experiment:
    """The experiment with the options of the command line, such as ``--contrast.temperature 0.07``.

    An unknown option or an impossible value ends the process with status 2 and a line that names it;
    ``--help`` shows every setting with its default.
    """
    registry = ConstructorRegistry()
    registry.primitive_rule(_read_workers)
    registry.struct_rule(_read_section)
    tree: Any = tyro.cli(
        Experiment, default=experiment, description=description, args=args, registry=registry
    )
    try:
        return config.from_tree(tree)
    except ValidationError as error:
        _refuse(config.explain(error))


def run(experiment: Experiment) -> None:
    """Train under Ray to the end, showing progress; a finished run only shows its result.

    Ends the process with status 2 where something is wrong before the start, 1 where the run failed, and 130
    on Ctrl-C.
    """
    from pixelcontrast import training
    from pixelcontrast.cluster.errors import LaunchError
    from pixelcontrast.cluster.launch import launch
    from pixelcontrast.cluster.progress import Progress, table

    try:
        result = training.check(experiment)
        if result is None:
            print(f"Run {experiment.run.name}: {_describe(experiment, training.memory_bytes(experiment))}")
            with Progress() as progress, _messages_shown():
                launch(experiment, on_row=progress.row)
            result = training.check(experiment)
        else:
            print(f"Run {experiment.run.name} is finished; choose another --run.name to start a new one.")
    except ValueError as error:
        _refuse(str(error))
    except LaunchError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the newest checkpoint.", file=sys.stderr)
        sys.exit(130)
    assert result is not None, "a run that ended without an error has a result"
    table(result)
    folder = f"{experiment.run.storage}/{experiment.run.name}"
    print(f"\nresult       {folder}/result.json")
    print(f"predictions  {folder}/{result['overlays']}")
    print(f"best network {folder}/{result['best_checkpoint']}/model.safetensors")


def _describe(experiment: Experiment, memory: int) -> str:
    data, optim, run = experiment.data, experiment.optim, experiment.run
    return (
        f"{experiment.model.backbone} on {data.layout} in {data.root}, {optim.steps} steps of "
        f"{optim.batch_size} images, workers {run.workers}, in {run.storage}/{run.name}"
        + (f"; memory of {memory / 1e6:,.1f} MB per worker" if memory else "")
    )


@contextmanager
def _messages_shown() -> Iterator[None]:
    """Print what the platform's loggers say, the workers' included, above the progress."""
    logger, handler = logging.getLogger("pixelcontrast"), logging.StreamHandler()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _read_section(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Read the options of a section into a dict, so that all values are checked at once, by full key."""
    if not is_pydantic_dataclass(info.type):
        return None
    fields: list[StructFieldSpec] = []
    for name, field in info.type.__pydantic_fields__.items():
        kind: Any = field.annotation
        default = getattr(info.default, name)
        fields.append(StructFieldSpec(name=name, type=kind, default=default, helptext=field.description))
    return StructConstructorSpec(instantiate=dict, fields=tuple(fields))


def _read_workers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Workers] | None:
    if info.type is not Workers:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|MIN:MAX",
        instance_from_str=lambda texts: Workers.parse(texts[0]),
        is_instance=lambda value: isinstance(value, Workers),
        str_from_instance=lambda workers: [str(workers)],
    )


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)
