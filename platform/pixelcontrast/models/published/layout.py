"""What a layout of published weights is: how its file is recognised, named and built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pixelcontrast import config
from pixelcontrast.models.weights_file import WeightsFile

CLASSIFIERS = ("decoder.classifier.", "decoder.auxiliary.classifier.")
"""How the names of the layers begin whose channels are the classes."""
HEAD = "projection."


class Target(NamedTuple):
    """The network that the tensors are for; it may be on the meta device."""

    settings: config.Model
    tensors: Mapping[str, Tensor]
    """Its state dict."""
    mean: tuple[float, float, float]
    """Mean of red, green and blue in [0, 1], by which its images are normalised."""
    std: tuple[float, float, float]


class Images(NamedTuple):
    """What a network's images are; by default RGB with ImageNet's usual normalisation."""

    bgr: bool = False
    """The first convolution's input channels are blue, green, red."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Their standard deviation."""


def _usual_images(_: Mapping[str, Any]) -> Images:
    return Images()


def _no_names(_: Mapping[str, Any]) -> Sequence[str]:
    return ()


def _unprepared(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    return tensors, []


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout of a published network's file."""

    title: str
    """What such a file is, as "a DeepLabV3 of torchvision"."""
    backbones: str
    """The values of ``model.backbone`` that it may have."""
    wrapper: str = ""
    """A prefix that all its keys may have."""
    recognised_by: tuple[str, ...]
    """Keys that each file has, and that together no other layout has."""
    settings: Mapping[str, Any]
    """Field of ``config.Model`` → the value that builds the file's operators."""
    asked: Mapping[str, str] = field(default_factory=dict)
    """Field of ``config.Model`` that no file tells → which value is right when."""
    names: Mapping[str, str]
    """How a key begins → how ours does; the longest beginning that fits counts."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """How keys begin that have no place in our networks → what they are."""
    optional: tuple[str, ...] = ("projection.",)
    """Parts of our network that a file may lack as a whole: they stay random."""
    has_conv_biases: bool = False
    """Whether convolutions before a BatchNorm have biases, as ours have; else theirs are 0."""
    prepare: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], list[str]]] = _unprepared
    """The file's tensors as its names expect them, and what was done to them that a user should know."""
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Our key → what the file's tensor becomes."""
    first_convolution: str
    """Our key of the convolution that sees the image."""
    images: Callable[[Mapping[str, Any]], Images] = _usual_images
    """What the checkpoint's further content says of its images; raises ``ValueError`` where it must and
    does not, or where the network is one that we do not build."""

    class_names: Callable[[Mapping[str, Any]], Sequence[str]] = _no_names
    """The classes in the classifier's order, where the checkpoint's further content names them."""

    def unwrapped(self, file: WeightsFile) -> dict[str, Tensor] | None:
        """The file's tensors by the layout's keys; None if the file is of another layout."""
        tensors = {key.removeprefix(self.wrapper): value for key, value in file.tensors.items()}
        return tensors if all(key in tensors for key in self.recognised_by) else None

    def our_name(self, key: str) -> str | None:
        """Our name for one of its keys; None if it has none."""
        return _renamed(key, self.names)

    def why_dropped(self, key: str) -> str | None:
        """What a key is that has no place in our networks; None if it should have one."""
        return next((what for start, what in self.dropped.items() if key.startswith(start)), None)


def _renamed(key: str, names: Mapping[str, str]) -> str | None:
    fitting = [start for start in names if key.startswith(start)]
    if not fitting:
        return None
    start = max(fitting, key=len)
    return names[start] + key.removeprefix(start)
