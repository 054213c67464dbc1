"""Whether a network is built as a published file needs it; else, what to set."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence

from torch import Tensor

from pixelcontrast import config
from pixelcontrast.models.operators import operators_of
from pixelcontrast.models.published.layout import Layout, Target
from pixelcontrast.models.weights_file import WeightsFile

_CLASSIFIER = "decoder.classifier.weight"


def check_settings(layout: Layout, file: WeightsFile, target: Target, tensors: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` with all settings that have to change, or that the file cannot tell.

    Args:
        tensors: the file's, by the network's names.
    """
    try:
        images = layout.images(file.extra)
    except ValueError as error:
        raise ValueError(f"{file.path}: is {layout.title}, but {error}") from error
    lines = _wrong(layout, target.settings)
    lines += [_option("mean", images.mean)] * (not _close(target.mean, images.mean))
    lines += [_option("std", images.std)] * (not _close(target.std, images.std))
    lines += _asked(layout, target.settings)
    lines += _of_classifier(layout, file, target, tensors)
    if lines:
        raise ValueError(
            f"{file.path}: is {layout.title}, and gives its results only with its own settings; add\n  "
            + "\n  ".join(lines)
        )


def keeps_classifier(target: Target, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file's classifier is the network's, once ``check_settings`` has passed."""
    same = num_classes(tensors) == num_classes(target.tensors)
    return target.settings.classifier != "new" and same


def _wrong(layout: Layout, model: config.Model) -> list[str]:
    """Options for the settings that differ from the layout's."""
    own = dataclasses.replace(model, operators=layout.settings["operators"])
    corners = "yes" if operators_of(own).align_corners else "no"
    return [
        _option(key, value)
        for key, value in layout.settings.items()
        if value != (corners if key == "align_corners" else getattr(model, key))
    ]


def _asked(layout: Layout, model: config.Model) -> list[str]:
    """What to set that no file tells."""
    return [
        f"--model.{key.replace('_', '-')}: {when}"
        for key, when in layout.asked.items()
        if getattr(model, key) is None
    ]


def _of_classifier(
    layout: Layout, file: WeightsFile, target: Target, tensors: Mapping[str, Tensor]
) -> list[str]:
    """What to set where it is open whether the classifier is kept, or where it cannot be."""
    choice, ours, theirs = target.settings.classifier, num_classes(target.tensors), num_classes(tensors)
    if theirs is None and choice != "new":
        return ["--model.classifier new: the file has no classifier"]
    if choice == "keep" and theirs != ours:
        return [f"--model.classifier new: the file has {theirs} classes, and the data have {ours}"]
    if choice is None and ours == theirs:
        names = ", ".join(layout.class_names(file.extra)) or "which it does not name"
        return [
            f"--model.classifier: keep if the file's {theirs} classes ({names}) are the data's in the same "
            "order, else new"
        ]
    return []


def _option(key: str, value: object) -> str:
    if isinstance(value, tuple):
        value = [f"{number:.7g}" for number in value]
    return shlex.join(config.arguments({f"model.{key}": value}))


def _close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(ours, theirs, strict=True))


def num_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """None where a file has no classifier."""
    return len(tensors[_CLASSIFIER]) if _CLASSIFIER in tensors else None
