"""A trained network, loaded for use: from its run, a checkpoint, or an exported file."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from pixelcontrast import config
from pixelcontrast.inference.classes import classes_of
from pixelcontrast.inference.classify import classify, to_tensor
from pixelcontrast.inference.exported import ENDINGS, read_exported
from pixelcontrast.inference.found import Found, find_checkpoint, is_weights_of_checkpoint
from pixelcontrast.inference.metadata import Metadata, Source
from pixelcontrast.models import SegmentationModel, build_model
from pixelcontrast.storage import Storage

_HEAD = "projection."


class TrainedModel(SegmentationModel):
    """A network for use: on the CPU, in evaluation mode; from ``load_model``, without the projection head.

    ``predict`` takes pictures. As a module it takes images [B, 3, H, W] in [0, 1], of any size, from which
    its ``mean`` has been taken and which then were divided by its ``std`` (of red, green and blue).

    Attributes:
        metadata: classes, palette, and where it comes from.
    """

    def __init__(self, network: SegmentationModel, metadata: Metadata):
        super().__init__(
            network.backbone,
            network.decoder,
            network.projection,
            stride=network.stride,
            multiple=network.multiple,
            align_corners=network.align_corners,
            mean=metadata.mean,
            std=metadata.std,
        )
        self.metadata = metadata
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by the number that ``predict`` returns."""
        return self.metadata.classes

    def predict(self, image: Image.Image | ArrayLike) -> NDArray[np.uint8]:
        """The class of every pixel.

        Args:
            image: a PIL image of 8 bits (RGB, RGBA, L or P), or uint8 [H, W, 3] (RGB) or [H, W] (grey); of
                any size. A camera's orientation tag (EXIF) is not applied: turn such an image with
                ``PIL.ImageOps.exif_transpose``.

        Returns:
            uint8 [H, W]: places in ``classes``.

        Raises:
            ValueError: an array of another type or shape, or an image of another mode or with transparent
                pixels.
        """
        return classify(self, to_tensor(image)).classes.numpy()


def load_model(location: str | os.PathLike[str], step: int | None = None) -> TrainedModel:
    """Load a trained network.

    Needs neither the data nor the backbone's first weights, draws nothing from torch's generator, and runs no
    code of the files.

    Args:
        location: a run's folder (``<storage>/<name>``), a checkpoint's folder, or a .safetensors or .pt file
            of ``pixelcontrast export``: local, or a URI that ``pyarrow.fs`` reads.
        step: of a run's checkpoint; None takes the best by mIoU of a finished run, else the newest valid one.

    Raises:
        ValueError: no network lies there, there is no such checkpoint, or a file is damaged; the text names
            it.
    """
    storage = Storage(os.fspath(location), option="RUN_OR_FILE")
    if storage.name.endswith(ENDINGS) and not is_weights_of_checkpoint(storage):
        if step is not None:
            raise ValueError(f"step {step}: {storage.location} is one network; a step chooses among a run's")
        metadata, tensors = read_exported(storage)
        return TrainedModel(_build(metadata.model, tensors, embedding=False), metadata)
    return _load_checkpoint(storage, step, embedding=False)


def load_with_head(location: str | os.PathLike[str], step: int | None = None) -> TrainedModel:
    """Load a run's or a checkpoint's network with its ``projection``, or None if it was trained without.

    Args:
        location: of a run's or a checkpoint's folder; exported files have no projection head.
        step: as ``load_model``.

    Raises:
        ValueError: as ``load_model``.
    """
    return _load_checkpoint(Storage(os.fspath(location), option="RUN"), step, embedding=True)


def _load_checkpoint(storage: Storage, step: int | None, *, embedding: bool) -> TrainedModel:
    found = find_checkpoint(storage, step)
    network = _build(found.experiment.model, found.tensors, embedding=embedding)
    return TrainedModel(network, _describe(found, network, _num_classes(found.tensors)))


def _build(settings: config.Model, tensors: Mapping[str, Tensor], *, embedding: bool) -> SegmentationModel:
    """The network of these tensors; with the projection head if it is wanted and there is one."""
    has_head = any(name.startswith(_HEAD) for name in tensors)
    plain = dataclasses.replace(settings, weights="none")
    build = partial(build_model, plain, num_classes=_num_classes(tensors), embedding=embedding and has_head)
    with torch.device("meta"):  # nothing is drawn: every tensor comes from the file
        network = build()
    kept = {name: tensor for name, tensor in tensors.items() if embedding or not name.startswith(_HEAD)}
    if _computes_tensors(network):
        with torch.random.fork_rng(devices=[]):
            network = build()
    network.load_state_dict(kept, assign=True)
    # The file's tensors are contiguous; the trained network's convolutions were not.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _computes_tensors(network: SegmentationModel) -> bool:
    """Whether its construction computes tensors that no file holds: Swin's indices, rotary embeddings."""
    buffers = dict(network.named_buffers(remove_duplicate=False)).keys() - network.state_dict().keys()
    attributes = (value for module in network.modules() for value in vars(module).values())
    return bool(buffers) or any(isinstance(value, Tensor) for value in attributes)


def _describe(found: Found, network: SegmentationModel, num_classes: int) -> Metadata:
    data = found.experiment.data
    names, palette = classes_of(data, found.class_names, found.class_colors, num_classes)
    return Metadata(
        model=dataclasses.replace(found.experiment.model, weights="none"),
        classes=names,
        palette=palette,
        mean=network.mean,
        std=network.std,
        layout=data.layout,
        root=data.root,
        class_order=data.class_order,
        source=Source(run=found.run, step=found.step, commit=found.commit),
    )


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    return len(tensors["decoder.classifier.weight"])
