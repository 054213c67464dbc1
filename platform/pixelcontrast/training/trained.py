"""A run's network, without what only its training needed."""

import dataclasses
import os

import safetensors.torch
import torch

from pixelcontrast import config
from pixelcontrast.models import SegmentationModel, build_model
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import read_experiment, read_result
from pixelcontrast.runs.storage import Storage

_WEIGHTS = "model.safetensors"


def load_model(run: str | os.PathLike[str], step: int | None = None) -> SegmentationModel:
    """The network that a run has trained, on the CPU, in evaluation mode and without the projection head.

    It takes images [B, 3, H, W] in [0, 1], of any size, from which its ``mean`` has been taken and which then
    were divided by its ``std`` (both of red, green and blue).

    Needs neither the data nor the backbone's first weights, and draws nothing from torch's generator.

    Args:
        run: the run's folder, ``<storage>/<name>``: a local one, or a URI that ``pyarrow.fs`` reads.
        step: of the checkpoint; None takes the best by mIoU of a finished run, else the newest valid one.

    Raises:
        ValueError: no run lies there, it has no such checkpoint, or a file is damaged; the text names it.
    """
    storage = Storage(os.fspath(run))
    if not storage.exists("experiment.json"):
        raise ValueError(f"{storage.location}: there is no run here, as experiment.json is missing")
    experiment = read_experiment(storage)
    name = _choose(storage, step)
    try:
        content = checkpoint.load(storage, name, only=[_WEIGHTS])[_WEIGHTS]
    except ValueError as error:
        raise ValueError(f"{storage.location}: {error}") from error
    return _build(experiment.model, content)


def _choose(run: Storage, step: int | None) -> str:
    """The checkpoint's folder in the run."""
    if step is not None:
        name = checkpoint.folder_of(step)
        if not run.exists(name):
            there = ", ".join(n for n in run.names(checkpoint.FOLDER) if n.startswith("step-")) or "none"
            raise ValueError(f"{run.location}: there is no {name}; there are {there}")
        return name
    result = read_result(run)
    if result is not None:
        return result["best_checkpoint"]
    name, _ = checkpoint.newest_valid(run)
    if name is None:
        raise ValueError(f"{run.location}: there is no checkpoint yet")
    return name


def _build(settings: config.Model, content: bytes) -> SegmentationModel:
    tensors = safetensors.torch.load(content)
    num_classes = len(tensors["decoder.classifier.weight"])
    with torch.device("meta"):  # nothing is drawn: every tensor comes from the file
        plain = dataclasses.replace(settings, weights="none")
        model = build_model(plain, num_classes=num_classes, embedding=False)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("projection.")}
    model.load_state_dict(kept, assign=True)
    # The file's tensors are contiguous; the trained network's convolutions were not.
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
