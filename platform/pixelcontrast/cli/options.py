"""Settings as options: how tyro reads the sections of an experiment, and what a command adds to them."""

import dataclasses
import sys
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

_SECTIONS = frozenset(Experiment.__dataclass_fields__)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What tyro reads: a command's own options, then the settings of the experiment, section by section."""

    own: Sequence[StructFieldSpec]
    experiment: Experiment


def parse(
    experiment: Experiment, *, description: str | None = None, args: Sequence[str] | None = None
) -> Experiment:
    """The experiment with the options of the command line, such as ``--contrast.temperature 0.07``.

    An unknown option or an impossible value ends the process with status 2 and a line that names it;
    ``--help`` shows every setting with its default.

    Args:
        args: the options; None for those of the command line.
    """
    return parse_options(experiment, (), description=description, program=sys.argv[0], args=args)[1]


def parse_options(
    experiment: Experiment,
    own: Sequence[StructFieldSpec],
    *,
    description: str | None,
    program: str,
    args: Sequence[str] | None,
) -> tuple[dict[str, Any], Experiment]:
    """As ``parse``, with options of a command's own before the settings.

    Args:
        program: as the help shows it.

    Returns:
        The values of ``own`` by name, not checked; and the experiment.
    """
    registry = ConstructorRegistry()
    registry.primitive_rule(_read_workers)
    registry.struct_rule(_read_section)
    default: Any = _Asked(own, experiment)
    tree: Any = tyro.cli(
        _Asked, default=default, description=description, prog=program, args=args, registry=registry
    )
    sections = {name: tree.pop(name) for name in _SECTIONS}
    try:
        return tree, config.from_tree(sections)
    except ValidationError as error:
        refuse(config.explain(error))


def fields_of(section: Any, default: Any) -> list[StructFieldSpec]:
    """An option for every field of a configuration's class, with its docstring as help."""
    return [
        StructFieldSpec(
            name=name, type=field.annotation, default=getattr(default, name), helptext=field.description
        )
        for name, field in section.__pydantic_fields__.items()
    ]


def _read_section(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Read the options of a section into a dict, so that all values are checked at once, by full key."""
    asked: Any = info.default
    if info.type is _Asked:
        fields = (*asked.own, *fields_of(Experiment, asked.experiment))
        return StructConstructorSpec(instantiate=dict, fields=fields)
    if not is_pydantic_dataclass(info.type):
        return None
    return StructConstructorSpec(instantiate=dict, fields=tuple(fields_of(info.type, info.default)))


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
