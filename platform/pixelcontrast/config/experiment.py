"""The whole configuration: what its sections must agree on, changes by dotted key, to and from JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace as with_fields
from typing import Any

import pydantic_core
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pixelcontrast.config.paths import absolute_path
from pixelcontrast.config.sections import STRICT, Contrast, Data, Model, Optim, Run

COMMIT_VARIABLE = "PIXELCONTRAST_COMMIT"
"""Environment variable that names the commit where the code has no git around it, as in a job."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment:
    """Everything that decides what a run trains. Change it with ``replace``."""

    data: Data
    run: Run
    model: Model = Field(default_factory=Model)
    contrast: Contrast = Field(default_factory=Contrast)
    optim: Optim = Field(default_factory=Optim)

    @model_validator(mode="after")
    def _workers_have_images(self) -> "Experiment":
        if self.run.workers.max > self.optim.batch_size:
            raise ValueError(
                f"run.workers is {self.run.workers} and optim.batch_size {self.optim.batch_size}: "
                "every worker needs at least one image of the global batch"
            )
        return self

    @model_validator(mode="after")
    def _anchors_have_positives(self) -> "Experiment":
        if self.contrast.weight > 0:
            try:
                self.contrast.check_positives(self.contrast, self.contrast)
            except ValueError as error:
                raise ValueError(f"contrast.{error}") from None
        return self

    @model_validator(mode="after")
    def _gpu_is_whole_for_several(self) -> "Experiment":
        if self.run.gpus_per_worker < 1 and self.run.workers.max > 1 and self.run.device != "cpu":
            raise ValueError(
                f"run.gpus_per_worker is {self.run.gpus_per_worker} and run.workers {self.run.workers}: NCCL "
                "refuses two workers of one run on one GPU, so only a single worker may have a part of one"
            )
        return self


_MEMORY_SHARE = 0.25
"""The part of a worker's memory (a GPU's, or its part of the node's) that stored embeddings may take."""
PAPER: dict[str, Any] = {
    "contrast.weight": 1.0,
    "contrast.warmup": 0.0,
    "contrast.temperature": 0.1,
    "contrast.anchors_per_class": 50,
    "contrast.hard_share": 0.5,
    "contrast.rare_class_power": 0.0,
    "contrast.memory": "both",
    "contrast.memory_term": "joint",
    "contrast.memory_weight": 1.0,
    "contrast.memory_dtype": "float32",
    "contrast.memory_max_age": None,
    "contrast.memory_sharded": False,
    "contrast.pixel_queue_size": None,
    "contrast.pixels_per_image": 10,
    "contrast.boundary_share": 0.0,
    "contrast.region_memory_size": None,
    "contrast.positive_mining": "semi-hard",
    "contrast.negative_mining": "semi-hard",
    "contrast.num_positives": 1024,
    "contrast.num_negatives": 2048,
    "contrast.semi_hard_share": 0.1,
}
"""All settings of the contrast as in the paper (Wang et al., ICCV 2021), for ``replace`` or a study's arm.

The embedding collapses with them, from random weights and from ImageNet's (experiments/LOG.md)."""

PLACEMENT = frozenset(
    {"data.root", "data.loader_processes", "data.on_bad_sample", "run.storage", "run.name"}
    | {"run.workers", "run.device", "run.cpus_per_worker", "run.gpus_per_worker", "run.compile"}
    | {"run.max_failures", "run.node_timeout"}
    | {"run.report_interval", "run.eval_interval", "run.checkpoint_interval", "run.keep_checkpoints"}
)
"""Keys that may differ between two attempts at the same run: where and how often, not what.

An attempt's provenance (``runs.provenance``) records what the result's last bits depend on among them."""

_PLAIN = {"unexpected_keyword_argument": "no such setting", "missing": "missing"}
"""What pydantic's kinds of mistakes mean to somebody who knows the file and not the library."""

_adapter = TypeAdapter(Experiment)


def replace(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """A copy with values changed by dotted key: ``replace(experiment, {"contrast.temperature": 0.07})``.

    Raises:
        ValueError: an unknown key, or a value that its field does not allow.
    """
    tree = _adapter.dump_python(experiment)
    for key, value in overrides.items():
        section, _, field = key.partition(".")
        if field not in tree.get(section, ()):
            raise ValueError(f"{key}: no such key; there are {', '.join(sorted(flatten(experiment)))}")
        tree[section][field] = value
    return from_tree(tree)


def absolute_paths(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths: workers run in other folders, and later starts may, too.

    URIs are unchanged.
    """
    data, run, model = experiment.data, experiment.run, experiment.model
    weights = model.weights if model.weights in ("none", "timm") else absolute_path(model.weights)
    return with_fields(
        experiment,
        data=with_fields(data, root=absolute_path(data.root)),
        run=with_fields(run, storage=absolute_path(run.storage)),
        model=with_fields(model, weights=weights),
    )


def from_tree(tree: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """An experiment from section → field → value; raises ``pydantic.ValidationError`` naming the keys."""
    return from_json(
        pydantic_core.to_json(tree, fallback=str)
    )  # in JSON, strict validation takes dicts and lists for what they stand for


def to_json(experiment: Experiment) -> str:
    """The experiment as indented JSON; ``from_json`` reads it back to an equal one."""
    return _adapter.dump_json(experiment, indent=2).decode()


def from_json(text: str | bytes) -> Experiment:
    """Read what ``to_json`` wrote; unknown keys, wrong types and impossible values raise ``ValueError``."""
    return _adapter.validate_json(text)


def flatten(experiment: Experiment) -> dict[str, Any]:
    """Dotted key → JSON value, in the order of definition."""
    return _flat(to_json(experiment))


def _flat(text: str | bytes) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, fields in json.loads(text).items()
        for key, value in fields.items()
    }


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Dotted key → (old, new) of every value that decides what is trained and differs."""
    before, after = flatten(absolute_paths(old)), flatten(absolute_paths(new))
    return {
        key: (before[key], after[key]) for key in after if key not in PLACEMENT and before[key] != after[key]
    }


def fingerprint(experiment: Experiment) -> str:
    """Identifies what is trained: sha256 of every value but those of ``PLACEMENT``."""
    return recorded_fingerprint(to_json(experiment))


def recorded_fingerprint(text: str | bytes) -> str:
    """The ``fingerprint`` that the version had which wrote this JSON, with the settings that there were."""
    deciding = {key: value for key, value in _flat(text).items() if key not in PLACEMENT}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def refuse_changes(what: str, changes: Mapping[str, tuple[Any, Any]], *, option: str) -> None:
    """Raise ``ValueError`` if something that is resumed by its name was started with other settings.

    Args:
        what: it is, and where.
        changes: key → (old, new).
        option: that gives another name.
    """
    if changes:
        lines = [f"  {key} was {old!r} and is now {new!r}" for key, (old, new) in changes.items()]
        raise ValueError(
            f"{what} was started with other settings:\n"
            + "\n".join(lines)
            + f"\nGive them back to resume it, or choose another {option}."
        )


def explain(error: ValueError) -> str:
    """One line per mistake of a ``ValidationError``: the dotted key, what is allowed, what was given."""
    if not isinstance(error, ValidationError):
        return str(error)
    mistakes = error.errors()
    # Items with a mistake are not counted, and a list of them is said to be too short as well.
    inner = {mistake["loc"][:size] for mistake in mistakes for size in range(len(mistake["loc"]))}
    counted = [m for m in mistakes if m["type"] != "too_short" or m["loc"] not in inner]
    return "\n".join(_explain_one(mistake) for mistake in counted)


def _explain_one(mistake: Any) -> str:
    key = ".".join(str(part) for part in mistake["loc"])
    message: str = _PLAIN.get(mistake["type"]) or mistake["msg"].removeprefix("Value error, ")
    given = "" if isinstance(mistake["input"], dict | Experiment) else f" (got {mistake['input']!r})"
    return f"{key}: {message}{given}" if key else message


def check_memory(size: int, available: float, where: str) -> None:
    """Raise ``ValueError`` if ``size`` bytes are more than a quarter of the ``available``."""
    if size > _MEMORY_SHARE * available:
        raise ValueError(
            f"contrast.memory: {size / 1e9:.3g} GB of embeddings for every worker are more than "
            f"{_MEMORY_SHARE:.0%} of {where}, {available / 1e9:.3g} GB. Lower contrast.pixel_queue_size or "
            "contrast.region_memory_size, set contrast.memory_dtype to bfloat16, or, with several workers, "
            "set contrast.memory_sharded."
        )
