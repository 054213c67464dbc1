"""Settings as options of a command: the only tyro code."""

import dataclasses
from collections.abc import Sequence
from typing import Any

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
from pixelcontrast.cli.terminal import refuse
from pixelcontrast.config import Experiment, Workers
from pixelcontrast.search import Search

_IN_THE_FILE = ("space", "known", "arms")
"""What a search has from the experiment's file alone; of the arms, an option chooses."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line asks for: a training, a search of the space, or a study of arms.

    Attributes:
        arms: names of those to compare; empty for all; None for none.
    """

    experiment: Experiment
    search: Search
    arms: tuple[str, ...] | None


class _ArmNames(tuple[str, ...]):
    """Names of arms after ``--search.arms``; none of them means all."""


def parse(
    experiment: Experiment, *, description: str | None = None, args: Sequence[str] | None = None
) -> Experiment:
    """The experiment with the options of the command line, such as ``--contrast.temperature 0.07``.

    An unknown option or an impossible value ends the process with status 2 and a line that names it;
    ``--help`` shows every setting with its default.
    """
    return parse_command(experiment, Search(), description=description, args=args).experiment


def parse_command(
    experiment: Experiment,
    search: Search,
    *,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> Command:
    """As ``parse``, with ``--search.trials`` and the other options of a search."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_read_workers)
    registry.primitive_rule(_read_arms)
    registry.struct_rule(_read_section)
    default: Any = Command(experiment, search, None)
    tree: Any = tyro.cli(Command, default=default, description=description, args=args, registry=registry)
    options = tree.pop("search")
    arms = options.pop("arms")
    try:
        chosen = dataclasses.replace(search, **options)
    except ValidationError as error:
        refuse("\n".join(f"search.{line}" for line in config.explain(error).splitlines()))
    try:
        return Command(config.from_tree(tree), chosen, None if arms is None else tuple(arms))
    except ValidationError as error:
        refuse(config.explain(error))


def _read_section(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Read the options of a section into a dict, so that all values are checked at once, by full key."""
    if info.type is Command:
        return StructConstructorSpec(instantiate=dict, fields=tuple(_sections(info.default)))
    if not is_pydantic_dataclass(info.type):
        return None
    return StructConstructorSpec(instantiate=dict, fields=tuple(_fields(info.type, info.default)))


def _sections(default: Any) -> list[StructFieldSpec]:
    return [
        *_fields(Experiment, default.experiment),
        StructFieldSpec(name="search", type=Search, default=default.search),
    ]


def _fields(section: Any, default: Any) -> list[StructFieldSpec]:
    fields: list[StructFieldSpec] = []
    for name, field in section.__pydantic_fields__.items():
        kind: Any = field.annotation
        value = getattr(default, name)
        if section is Search and name in _IN_THE_FILE:
            if name != "arms":
                continue
            kind, value = _ArmNames | None, None
            there = f" It has {', '.join(default.arms)}." if default.arms else ""
            text = f"Compare the file's arms, or those named, on the same seeds.{there}"
            fields.append(StructFieldSpec(name=name, type=kind, default=value, helptext=text))
            continue
        fields.append(StructFieldSpec(name=name, type=kind, default=value, helptext=field.description))
    return fields


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


def _read_arms(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type is not _ArmNames:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME …]",
        instance_from_str=_ArmNames,
        is_instance=lambda value: isinstance(value, _ArmNames),
        str_from_instance=list,
    )
