"""A published network's tensors under our names, with our order of channels."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pixelcontrast.models.published import hrnet, mmsegmentation, reference, torchvision
from pixelcontrast.models.published.layout import CLASSIFIERS, HEAD, Layout, Target
from pixelcontrast.models.published.settings import check_settings, keeps_classifier, num_classes
from pixelcontrast.models.weights_file import WeightsFile, first

LAYOUTS = (*reference.LAYOUTS, *hrnet.LAYOUTS, *mmsegmentation.LAYOUTS, *torchvision.LAYOUTS)


class Start(NamedTuple):
    """What a network starts from."""

    tensors: dict[str, Tensor]
    """By the network's own names; what is not among them stays random."""
    notes: list[str]
    """What a user should know of it."""


def recognise(file: WeightsFile) -> Layout | None:
    """The layout whose keys the file has; None for a backbone's file, and for unknown ones."""
    return next((layout for layout in LAYOUTS if layout.unwrapped(file) is not None), None)


def map_published(layout: Layout, file: WeightsFile, target: Target) -> Start:
    """The file's tensors for the target.

    Raises:
        ValueError: the network has other operators than the file's, or a setting that no file tells is not
            set; or tensors are left over, missing or of other shapes. Names the file and what to set.
    """
    unwrapped = layout.unwrapped(file)
    assert unwrapped is not None
    found, prepared = layout.prepare(unwrapped)
    tensors, left_aside = _renamed(layout, file, found)
    check_settings(layout, file, target, tensors)
    random, reasons = _stay_random(layout, target, tensors)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(random)}
    if not layout.has_conv_biases:
        tensors |= _zero_biases(target.tensors, tensors)
    _check_complete(layout, file, target, tensors, random)
    for key, change in layout.changed.items():
        tensors[key] = change(tensors[key])
    if layout.images(file.extra).bgr:
        tensors[layout.first_convolution] = tensors[layout.first_convolution].flip(1)
    return Start(tensors, [*prepared, *left_aside, *reasons])


def _renamed(
    layout: Layout, file: WeightsFile, found: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by our names, and what is left aside because no network of ours has it."""
    tensors, dropped, unknown = {}, [], []
    for key, value in found.items():
        ours, what = layout.our_name(key), layout.why_dropped(key)
        if ours is not None:
            tensors[ours] = value
        elif what is not None:
            dropped.append(f"{what} is left aside")
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"{file.path}: looks like {layout.title}, but {first(unknown)} would be left over: it is another "
            "network, which cannot be built here"
        )
    return tensors, list(dict.fromkeys(dropped))


def _stay_random(
    layout: Layout, target: Target, tensors: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], list[str]]:
    """How the names of layers begin that the file's tensors are not for, and the reasons to tell."""
    reasons = []
    random = [part for part in layout.optional if not any(key.startswith(part) for key in tensors)]
    if "decoder.auxiliary." in random:
        reasons.append("it has no auxiliary head: a new one is trained")
    if not any(key.startswith(HEAD) for key in target.tensors):
        random.append(HEAD)  # the baseline without contrast has no head
    elif any(key.startswith(HEAD) and key not in target.tensors for key in tensors):
        random.append(HEAD)
        reasons.append(
            "its projection head is left aside: it has BatchNorm, and model.embedding_batchnorm is not set"
        )
    if not keeps_classifier(target, tensors):
        random.extend(CLASSIFIERS)
        theirs, ours = num_classes(tensors), num_classes(target.tensors)
        reasons.append(
            f"it has no classifier: a new one of {ours} classes is trained"
            if theirs is None
            else f"its classifier of {theirs} classes is replaced by a new one of {ours}"
        )
    return tuple(random), reasons


def _zero_biases(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of convolutions that have none in the file: before a BatchNorm they change nothing."""
    return {
        key: torch.zeros(value.shape)
        for key, value in wanted.items()
        if key.endswith(".bias")
        and key not in tensors
        and not key.startswith(CLASSIFIERS)
        and tensors.get(key.removesuffix("bias") + "weight", value).ndim == 4
    }


def _check_complete(
    layout: Layout,
    file: WeightsFile,
    target: Target,
    tensors: Mapping[str, Tensor],
    random: tuple[str, ...],
) -> None:
    """Raise ``ValueError`` unless the tensors are those of the network, in number and shape."""
    wanted = target.tensors
    needed = [key for key in wanted if not key.startswith(random) and not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in tensors]
    extra = [key for key in tensors if key not in wanted]
    shapes = [key for key in needed if key in tensors and tensors[key].shape != wanted[key].shape]
    faults = []
    if missing:
        faults.append(f"{first(missing)} missing")
    if extra:
        faults.append(f"{first(extra)} left over")
    if shapes:
        theirs, ours = list(tensors[shapes[0]].shape), list(wanted[shapes[0]].shape)
        faults.append(f"other shapes in {first(shapes)}: first {theirs}, not {ours}")
    if faults:
        raise ValueError(
            f"{file.path}: is {layout.title}, and does not fit {target.settings.backbone}: "
            f"{'; '.join(faults)}. model.backbone must be the file's own ({layout.backbones})"
        )
