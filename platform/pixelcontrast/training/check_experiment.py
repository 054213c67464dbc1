"""What can be found wrong before any worker starts."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import torch

from pixelcontrast.config import Data, Experiment, Model
from pixelcontrast.datasets.segmentation import build_dataset, check_data
from pixelcontrast.models import build_model, check_model, check_model_weights, trains_features
from pixelcontrast.models.batchnorm import lacking_values
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.resume import check_finished, check_resumable
from pixelcontrast.runs.run_folder import Row, open_storage, read_attempts, read_result
from pixelcontrast.storage import StorageError, one_line
from pixelcontrast.training.contrast import warmup_steps
from pixelcontrast.training.origin import check_same_data, describe_data


def check(experiment: Experiment) -> Row | None:
    """Look at the run's folder, the data, the model and the storage.

    Returns:
        The result of the run if it is finished already, whether it still has its checkpoints or not; else
        None.

    Raises:
        ValueError: another configuration or other data under the same name, a run that has lost what it had,
            a missing or unreadable data set, an unknown backbone, weights that do not exist, do not fit or
            cannot be downloaded, class weights that do not fit.
        StorageError: the run's storage cannot be read or written.
    """
    run = open_storage(experiment)
    try:
        result = read_result(run)
        if result is not None:
            check_finished(run, experiment)
            return result
        check_resumable(run, experiment)
    except OSError as error:
        raise StorageError(f"run.storage: {run.location} cannot be read: {one_line(error)}") from error
    check_inputs(experiment)
    if checkpoint.names(run):
        check_runs_data([experiment], option="--run.name")
    run.check_writable()
    return None


def check_runs_data(experiments: Iterable[Experiment], *, option: str) -> None:
    """Before any worker does so: refuse other images or classes than these runs were trained on.

    Args:
        option: what to choose another name by.
    """

    @cache
    def described(data: Data) -> dict[str, str]:
        return describe_data(*(build_dataset(data, split) for split in ("train", "val")))["data"]

    for experiment in experiments:
        if attempts := read_attempts(open_storage(experiment)):
            check_same_data(experiment, attempts[-1]["data"], described(experiment.data), option=option)


def _check_backbone_is_trained(model: Model) -> None:
    """Raise ``ValueError`` if the backbone would stay as random as it starts."""
    if model.freeze_backbone and model.weights == "none":
        raise ValueError(
            "model.freeze_backbone: model.weights is none, so that the backbone would keep its random "
            "weights; set model.weights to timm or a file, or train the backbone"
        )


def _check_contrast_trains(experiment: Experiment) -> None:
    """Raise ``ValueError`` if the contrast would train nothing that is there at inference."""
    model = experiment.model
    if experiment.contrast.weight > 0 and not trains_features(model):
        raise ValueError(
            f"model.freeze_backbone: with model.decoder {model.decoder} the embedding is made of the frozen "
            "backbone's features: the contrast would train its own head alone, which is dropped at "
            "inference. Set contrast.weight to 0, or train the backbone, or take a plain Vision Transformer "
            "with decoder hrnet, whose pyramid is trained"
        )


def _check_contrast_begins(experiment: Experiment) -> None:
    """Raise ``ValueError`` if the warm-up takes all steps, so that the contrast trains its head alone."""
    steps, contrast = experiment.optim.steps, experiment.contrast
    if contrast.weight > 0 and warmup_steps(experiment) >= steps:
        raise ValueError(
            f"contrast.warmup is {contrast.warmup:g} and optim.steps {steps}: the warm-up takes every step, "
            "and the contrast would train its own head alone; lower contrast.warmup or raise optim.steps"
        )


def _check_one_image(experiment: Experiment, *, num_classes: int) -> None:
    """Raise ``ValueError`` if one image is all of a batch and leaves a BatchNorm one value per channel."""
    if experiment.optim.batch_size > 1:
        return
    with torch.device("meta"):
        model = replace(experiment.model, weights="none")
        network = build_model(model, num_classes=num_classes, embedding=False).train()
    height, width = experiment.data.crop_size
    if name := lacking_values(network, (height, width)):
        pooled = lacking_values(network, (4 * height, 4 * width)) != ""
        larger = "" if pooled else ", or take a larger data.crop_size"
        raise ValueError(
            f"optim.batch_size is 1: the network's {name} would see one value per channel, and BatchNorm "
            f"needs at least two; set optim.batch_size to 2{larger}"
        )


def check_compiler() -> None:
    """Raise ``ValueError`` where this machine has no C++ compiler, without which nothing is compiled."""
    wanted = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
    if not any(shutil.which(name) for name in wanted):
        raise ValueError(
            f"run.compile: torch.compile needs a C++ compiler, and PATH has none of {', '.join(wanted)}; "
            "install one (apt-get install g++), name yours in CXX, or leave out --run.compile"
        )


def check_inputs(experiment: Experiment) -> None:
    """Look at the model, its weights and the data; raises ``ValueError`` as ``check``."""
    if experiment.run.compile:
        check_compiler()
    check_model(experiment.model)
    _check_backbone_is_trained(experiment.model)
    _check_contrast_trains(experiment)
    _check_contrast_begins(experiment)
    check_data(experiment.data)
    names = build_dataset(experiment.data, "train").labels.names
    _check_one_image(experiment, num_classes=len(names))
    embedding = experiment.contrast.weight > 0
    check_model_weights(experiment.model, num_classes=len(names), embedding=embedding)
    weights = experiment.optim.class_weights
    if weights is not None and len(weights) != len(names):
        raise ValueError(
            f"optim.class_weights: {len(weights)} numbers for {len(names)} classes: {', '.join(names)}"
        )
