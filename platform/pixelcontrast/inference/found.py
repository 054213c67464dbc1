"""Which checkpoint a location means: a run's best or newest, one of its steps, or a folder of its own."""

import json
import re
from typing import NamedTuple

import safetensors.torch
from torch import Tensor

from pixelcontrast.config import Experiment
from pixelcontrast.inference.metadata import Color
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import EXPERIMENT, read_confusion, read_experiment, read_result, read_rows
from pixelcontrast.storage import Storage, one_line

_WEIGHTS, _PROVENANCE = "model.safetensors", "provenance.json"
_STEP = re.compile(r"step-(\d+)")


class Found(NamedTuple):
    """A checkpoint, as far as inference needs it."""

    experiment: Experiment
    tensors: dict[str, Tensor]
    """The network's, with those of the projection head."""
    run: str
    """The run's absolute path, or its URI."""
    step: int
    commit: str
    class_names: tuple[str, ...] | None
    """As the run's evaluations name them; None before the first, and of a checkpoint without its run."""
    class_colors: dict[str, Color]
    """Class name → colour, as the run's last evaluation recorded them; none where ``class_names`` is None,
    and of a run that did not record them."""


def is_weights_of_checkpoint(storage: Storage) -> bool:
    """Whether a file is the ``model.safetensors`` of a checkpoint, which stands for its folder."""
    return storage.name == _WEIGHTS and storage.parent.exists(checkpoint.MANIFEST)


def find_checkpoint(storage: Storage, step: int | None) -> Found:
    """Read and verify a network's checkpoint.

    Args:
        storage: a run's folder, a checkpoint's folder, or the weights in it.
        step: as ``load_model``.

    Raises:
        ValueError: as ``load_model``.
    """
    folder = storage.parent if is_weights_of_checkpoint(storage) else storage
    try:
        experiment = _read_experiment(folder)
        run, base, name = _locate(folder, step)
        class_names, class_colors = _class_names(run), _class_colors(run)
    except OSError as error:
        raise ValueError(f"{folder.location} cannot be read: {one_line(error)}") from error
    try:
        parts = checkpoint.load(base, name, only=[_WEIGHTS, _PROVENANCE])
    except ValueError as error:
        raise ValueError(f"{base.location}: {error}") from error
    number = _STEP.search(name)
    return Found(
        experiment=experiment,
        tensors=safetensors.torch.load(parts[_WEIGHTS]),
        run=run.path() if run.is_local else run.location,
        step=int(number[1]) if number else 0,
        commit=json.loads(parts.get(_PROVENANCE, b"{}")).get("git", "unknown"),
        class_names=class_names,
        class_colors=class_colors,
    )


def choose_step(location: str, step: int | None) -> int | None:
    """The step that ``load_model`` takes now; given to it later, it takes the same of a run that trains on.

    Args:
        location: as ``load_model``.
        step: likewise.

    Returns:
        None where the location is one network.

    Raises:
        ValueError: as ``load_model``.
    """
    storage = Storage(location, option="RUN_OR_FILE")
    is_run = storage.exists(EXPERIMENT) and not storage.exists(checkpoint.MANIFEST)
    if step is not None or not is_run:
        return step
    found = _STEP.search(_choose(storage, None))
    return int(found[1]) if found else None


def _locate(folder: Storage, step: int | None) -> tuple[Storage, Storage, str]:
    """The run, and the checkpoint as a folder and a name in it."""
    if folder.exists(checkpoint.MANIFEST):
        if step is not None:
            raise ValueError(
                f"step {step}: {folder.location} is one checkpoint; a step chooses among a run's"
            )
        return folder.parent.parent, folder.parent, folder.name
    return folder, folder, _choose(folder, step)


def _read_experiment(folder: Storage) -> Experiment:
    if not folder.exists(EXPERIMENT):
        raise ValueError(
            f"{folder.location}: there is no run here, as experiment.json is missing; allowed are the folder "
            "of a run or of a checkpoint, and a .safetensors or .pt file of `pixelcontrast export`"
        )
    return read_experiment(folder)


def _choose(run: Storage, step: int | None) -> str:
    """The checkpoint's folder in the run."""
    if step is not None:
        name = checkpoint.folder_of(step)
        if not run.exists(name):
            raise ValueError(f"{run.location}: there is no {name}; there are {_steps(run)}")
        return name
    result = read_result(run)
    if result is not None:
        best = result["best_checkpoint"]
        if not run.exists(best):
            raise ValueError(
                f"{run.location}: {best}, the best, is gone; there are {_steps(run)}: name one by its step"
            )
        return best
    name, _ = checkpoint.newest_valid(run)
    if name is None:
        raise ValueError(f"{run.location}: there is no checkpoint yet")
    return name


def _steps(run: Storage) -> str:
    """The checkpoints that are there."""
    return ", ".join(filter(checkpoint.is_checkpoint, run.names(checkpoint.FOLDER))) or "none"


def _class_names(run: Storage) -> tuple[str, ...] | None:
    evaluations = (row for row in reversed(read_rows(run)) if row["kind"] == "eval")
    return next((tuple(row["iou"]) for row in evaluations), None)


def _class_colors(run: Storage) -> dict[str, Color]:
    found = read_confusion(run) or {}
    names, colors = found.get("classes", ()), found.get("colors", ())
    return {name: (red, green, blue) for name, (red, green, blue) in zip(names, colors, strict=False)}
