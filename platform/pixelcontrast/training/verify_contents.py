"""Does what a checkpoint's files hold fit the network, the optimiser and the memory of its configuration?"""

import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import safetensors.torch
import torch
from torch import Tensor

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.contrast.banks import WHOLE, reshard
from pixelcontrast.models import SegmentationModel, build_model
from pixelcontrast.runs.run_folder import parse_experiment
from pixelcontrast.runs.verify import Line, verify_files
from pixelcontrast.training.contrast import build_contrast
from pixelcontrast.training.optim import build_optimizer

_NEEDED = ("experiment.json", "loop.json", "model.safetensors", "optimizer.pt", "provenance.json")
_CLASSIFIER = "decoder.classifier.weight"
_OF_OPTIMIZER = {"sgd": {"momentum_buffer"}, "adamw": {"step", "exp_avg", "exp_avg_sq"}}
"""What torch's optimisers remember of a parameter."""


def verify(location: str | os.PathLike[str]) -> Iterator[Line]:
    """``runs.verify.verify_files``, and what checkpoints hold is loaded, without executing code, and compared
    with the network, the optimiser and the memory of its configuration.

    Args:
        location: the run's folder, ``<storage>/<name>``: a local one, or a URI that ``pyarrow.fs`` reads.

    Yields:
        A line for every damage and every part that is sound, as it is found.

    Raises:
        ValueError: no run lies there.
    """
    return verify_files(location, verify_contents=verify_contents)


def verify_contents(parts: Mapping[str, bytes], /, *, step: int) -> dict[str, str]:
    """What is wrong in a checkpoint's files, though their bytes are those written: file → what.

    Every part is loaded, on the CPU and without executing code from it.

    Args:
        parts: as ``checkpoint.load`` gives them.
        step: that the checkpoint's folder names.
    """
    found = {name: "is not in the manifest" for name in _NEEDED if name not in parts}
    if found:
        return found
    with _noted(found, "experiment.json"):
        experiment = parse_experiment(parts["experiment.json"], where="experiment.json")
    with _noted(found, "loop.json"):
        loop = json.loads(parts["loop.json"])
        _require(loop["step"] == step, f"has step {loop['step']} instead of {step}")
        _require(0 <= loop["best_step"] <= step, f"has {loop['best_step']} as the best step")
        _require(isinstance(loop["best_miou"], float), f"has {loop['best_miou']} as the best mIoU")
    with _noted(found, "provenance.json"):
        images = json.loads(parts["provenance.json"])["images"]["train"]
    if found:
        return found
    with _noted(found, "model.safetensors"):
        tensors = safetensors.torch.load(parts["model.safetensors"])
        _require(_CLASSIFIER in tensors, f"has no {_CLASSIFIER}")
        head = experiment.contrast.weight > 0
        model = _build(experiment.model, num_classes=len(tensors[_CLASSIFIER]), embedding=head)
        _check_tensors(tensors, model.state_dict())
    if found:
        return found
    with _noted(found, "optimizer.pt"):
        _check_optimizer(parts["optimizer.pt"], model, experiment)
    memory = sorted(name for name in parts if name.startswith("memory-"))
    with _noted(found, memory[0] if memory else "manifest.json"):
        _check_memory(memory, parts, experiment, num_classes=len(tensors[_CLASSIFIER]), num_images=images)
    return found


@contextmanager
def _noted(found: dict[str, str], name: str) -> Iterator[None]:
    """Take any error as what is wrong with a file: the loaders raise types of their own."""
    try:
        yield
    except ValueError as error:
        found[name] = str(error).removeprefix(f"{name} ")
    except Exception as error:
        found[name] = f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


@lru_cache(maxsize=1)  # a run's checkpoints are all of one network
def _build(settings: config.Model, *, num_classes: int, embedding: bool) -> SegmentationModel:
    """The network without memory for its weights."""
    with torch.device("meta"):
        plain = dataclasses.replace(settings, weights="none")
        return build_model(plain, num_classes=num_classes, embedding=embedding)


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        _require(name in tensors, f"has no {name}")
        _require(name in expected, f"has {name}, which does not belong to this configuration")
        ours, theirs = _kind(tensors[name]), _kind(expected[name])
        _require(ours == theirs, f"has {name} as {ours} instead of {theirs}")
        _require(bool(tensors[name].isfinite().all()), f"has numbers in {name} that are not finite")


def _check_optimizer(content: bytes, model: SegmentationModel, experiment: Experiment) -> None:
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    optimizer = build_optimizer(model, experiment.optim)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    ours = [len(group["params"]) for group in state["param_groups"]]
    _require(ours == sizes, f"is of {ours} parameters instead of {sizes}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    expected = dict(zip(numbers, parameters, strict=True))
    wanted = _OF_OPTIMIZER[experiment.optim.optimizer]
    for number, entry in state["state"].items():
        ours, theirs = (", ".join(sorted(keys)) or "nothing" for keys in (entry.keys(), wanted))
        _require(ours == theirs, f"has {ours} of parameter {number} instead of {theirs}")
        for key in sorted(wanted - {"step"}):
            if entry[key] is not None:  # of SGD without momentum
                name = f"the {key} of parameter {number}"
                _check_tensors({name: entry[key]}, {name: expected[number].detach()})


def _check_memory(
    names: list[str], parts: Mapping[str, bytes], experiment: Experiment, *, num_classes: int, num_images: int
) -> None:
    """All ranks' parts together are the whole memory."""
    with torch.device("meta"):
        contrast = build_contrast(experiment, num_classes=num_classes, num_images=num_images)
    of = len(names)
    expected = sorted(f"memory-{index}-of-{of}.safetensors" for index in range(of))
    _require(names == expected, f"are not the files of one memory: {', '.join(names)}")
    if contrast is None or not names:
        text = "a memory is here, but contrast.weight is 0" if names else "no file of the memory is named"
        _require((contrast is None) == (not names), text)
        return
    shards = [safetensors.torch.load(parts[f"memory-{index}-of-{of}.safetensors"]) for index in range(of)]
    _check_tensors(reshard(shards, WHOLE), contrast.state_dict())


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
