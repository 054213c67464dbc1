"""What an experiment's file does: ``train``, ``search`` or ``compare``, each with options of its own."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError
from tyro.constructors import StructFieldSpec

from pixelcontrast import config
from pixelcontrast.cli.options import fields_of, parse_options
from pixelcontrast.cli.terminal import refuse
from pixelcontrast.config import Count, Experiment
from pixelcontrast.search import Search

Verb = Literal["train", "search", "compare"]

_FILE_HELP = """\
Commands:
  train                 Train the experiment once; what the file does without a command.
  search --trials N     Search the settings that the file's SEARCH names, with N trials.
  compare [ARM ...]     Train the arms of the file's SEARCH on the same seeds, and compare them.

Each has --help. The options below are settings, and belong to all of them."""
_VERB_HELP = {
    "train": "Train the experiment once.\n\nRerun the command to resume.",
    "search": "Search the settings that the file's SEARCH names.\n\n"
    "Rerun the command to resume; a larger --trials adds trials.",
    "compare": "Train the arms of the file's SEARCH on the same seeds, and compare them with the one that "
    "stands first in the file.\n\n"
    "Rerun the command to resume; more arms or seeds may be added.",
}
_SHARED = ("name", "max_concurrent", "max_failures", "study")
_SEARCH = ("trials", "objectives", "sampler", "seed", "early_stopping", "grace", "reduction_factor", *_SHARED)
_COMPARE = ("seeds", *_SHARED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the command line of an experiment's file asks for.

    Attributes:
        search: has ``trials`` where the verb is ``search``.
        arms: names of those to compare; empty for all.
    """

    verb: Verb
    experiment: Experiment
    search: Search
    arms: tuple[str, ...] = ()


def parse_command(
    experiment: Experiment,
    search: Search,
    *,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> Command:
    """Read the verb, its options and the settings; a mistake ends the process with status 2 and a line.

    Args:
        description: the file's, for its help.
        args: what follows the file's name; None for the command line.
    """
    args = sys.argv[1:] if args is None else args
    match args:
        case ["train" | "search" | "compare" as verb, *options]:
            program, text = f"{sys.argv[0]} {verb}", _VERB_HELP[verb]
        case [word, *_] if not word.startswith("-"):
            refuse(f"{word}: no such command; there are {', '.join(_VERB_HELP)}, each with --help")
        case options:
            verb, program = "train", sys.argv[0]
            text = f"{description.rstrip()}\n\n{_FILE_HELP}" if description else _FILE_HELP
    own = _own_options(verb, search)
    found, changed = parse_options(experiment, own, description=text, program=program, args=options)
    arms = found.pop("arms", ())
    return Command(verb=verb, experiment=changed, search=_replace(search, found), arms=arms)


def _own_options(verb: Verb, search: Search) -> list[StructFieldSpec]:
    """Those of a verb, in the order of its help."""
    specs = {spec.name: spec for spec in fields_of(Search, search)}
    match verb:
        case "train":
            return []
        case "search":
            needed = tyro.MISSING if search.trials is None else search.trials
            specs["trials"] = dataclasses.replace(specs["trials"], type=Count, default=needed)
            return [specs[name] for name in _SEARCH]
        case "compare":
            return [_arms_option(search), *(specs[name] for name in _COMPARE)]


def _arms_option(search: Search) -> StructFieldSpec:
    kind: Any = Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[ARM ...]", help_behavior_hint="")
    ]
    there = f": {', '.join(search.arms)}" if search.arms else ""
    text = f"Arms to compare, before any option; all of the file's unless named{there}."
    return StructFieldSpec(name="arms", type=kind, default=(), helptext=text)


def _replace(search: Search, options: dict[str, Any]) -> Search:
    try:
        return dataclasses.replace(search, **options)
    except ValidationError as error:
        lines = [line.partition(":") for line in config.explain(error).splitlines()]
        refuse("\n".join(f"--{key.replace('_', '-')}:{text}" for key, _, text in lines))
