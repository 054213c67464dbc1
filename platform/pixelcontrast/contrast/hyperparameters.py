"""The settings of the contrast, each with its default and its range: the one place where they stand.

``PixelContrast`` is composed of these parts, and an experiment's ``Contrast`` inherits their fields. No torch
is imported here: showing a command's options must not cost it.
"""

import math
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]

ExampleMining = Literal["all", "random", "hardest", "semi-hard", "semi-hard-subset"]
Term = Literal["separate", "joint"]

MAX_MEMORY_ROWS = 200_000
"""Rows over all classes that a bank without a size of its own has at most: 205 MB at D = 256 in float32."""


class _Checked:
    """Checks the values of a dataclass against the types of its fields."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _check(name, getattr(self, name), hint)


@dataclass(frozen=True, kw_only=True)
class LossConfig(_Checked):
    """The loss (Wang et al., ICCV 2021, Eq. 3)."""

    temperature: Positive = 0.1
    """τ of Eq. 3."""
    memory_term: Term = "separate"
    """separate: Eq. 3 over the batch plus memory_weight times Eq. 3 over the memory (after XBM, arXiv
    1912.06798), so that many old rows cannot outweigh the batch. joint: one Eq. 3 over both, as in the
    paper. Needs a memory."""
    memory_weight: NonNegative = 1.0
    """Weight of the separate memory term; needs a memory. 0 is as no memory at all: nothing is stored."""

    @property
    def uses_memory(self) -> bool:
        """Whether a memory takes part in the loss, where there is one."""
        return self.memory_term == "joint" or self.memory_weight > 0


@dataclass(frozen=True, kw_only=True)
class AnchorConfig(_Checked):
    """Which pixels are anchors (segmentation-aware sampling, Sec. 3.3)."""

    anchors_per_class: Count = 50
    """Anchors drawn per class and global batch, at most."""
    hard_share: Share = 0.5
    """Share of the anchors, rounded up, drawn among the pixels that are misclassified now; the rest is drawn
    from all others."""
    rare_class_power: Share = 0.0
    """Above 0, classes get anchors by their share of the pixels to the power of −this, on average
    anchors_per_class, at most four times that; 0: all alike; 1: in inverse proportion."""

    def check_positives(self, memory: "MemoryConfig", loss: LossConfig) -> None:
        """Raise ``ValueError`` where no anchor can ever have a positive, so that nothing would be trained."""
        if self.anchors_per_class == 1 and (memory.memory == "none" or not loss.uses_memory):
            raise ValueError(
                "anchors_per_class is 1 and no memory is used: an anchor's positives are the other anchors "
                "of its class and the memory's rows, so there is none; allowed are 2 and more, or a memory"
            )


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(_Checked):
    """What is remembered of earlier batches, as further positives and negatives (Sec. 3.2).

    A bank of n rows per class takes classes · n · (4 · D + 8) bytes on every rank. The 4 · D, a row in
    float32, is half that in bfloat16, and a W-th where W ranks share the memory; a region memory with a slot
    per image takes 8 bytes more per row. ``print(contrast.memory)`` shows the sizes.
    """

    memory: Literal["none", "pixel", "region", "both"] = "none"
    """none: an anchor is compared with the other anchors of the global batch only. pixel: also with a queue
    of earlier batches' pixels. region: also with the average embedding of each class in an image."""
    pixel_queue_size: Count | None = None
    """Pixels per class; unset: 10 per training image, and at most 200,000 over all classes. Needs memory
    pixel or both."""
    pixels_per_image: Count = 10
    """Random pixels per class and image that enter the queue; needs memory pixel or both."""
    boundary_share: Share = 0.0
    """Share of them, rounded up, drawn next to pixels of another class (boundary-aware negatives, after
    Contextrast, arXiv 2404.10633); needs memory pixel or both."""
    region_memory_size: Count | None = None
    """Regions per class; unset: 1 per training image, and at most 200,000 over all classes. With fewer than
    training images, the newest regions are kept. Needs memory region or both."""
    memory_dtype: Literal["float32", "bfloat16"] = "float32"
    """How the memory is stored; bfloat16 halves it. Needs a memory."""
    memory_max_age: Count | None = None
    """Steps after which a stored row is no longer used; unset: only newer rows replace it. With it, the
    region memory keeps the newest regions instead of one per image. Needs a memory."""
    memory_sharded: bool = False
    """Each of W workers stores 1/W of the memory, in which it mines 1/W of the examples of every anchor;
    unset: each stores all of it. Needs a memory."""

    def pixels_of(self, num_classes: int, num_images: int | None) -> int:
        """Rows per class of the pixel queue; 0 for none."""
        if self.memory not in ("pixel", "both"):
            return 0
        return self.pixel_queue_size or _default_size("pixel_queue_size", 10, num_classes, num_images)

    def regions_of(self, num_classes: int, num_images: int | None) -> int:
        """Rows per class of the region memory; 0 for none."""
        if self.memory not in ("region", "both"):
            return 0
        return self.region_memory_size or _default_size("region_memory_size", 1, num_classes, num_images)


@dataclass(frozen=True, kw_only=True)
class MiningConfig(_Checked):
    """Which examples of the memory an anchor is compared with (Sec. 3.3); those of the batch always are."""

    positive_mining: ExampleMining = "random"
    """Which positives of the memory an anchor is compared with (those of the batch always): all, random ones,
    the hardest (least similar), or, semi-hard, random ones of the hardest semi_hard_share; semi-hard-subset
    takes the hardest semi_hard_share of random ones, which is faster: hardest and semi-hard compare all rows
    with every anchor, and as negative_mining make the host wait for a GPU several times a step. Needs a
    memory."""
    negative_mining: ExampleMining = "random"
    """Likewise for negatives, of which the most similar are the hardest; needs a memory."""
    num_positives: Count = 1024
    """Positives in the memory that an anchor is compared with, at most, unless positive_mining is all; needs
    a memory."""
    num_negatives: Count = 2048
    """Negatives in the memory that an anchor is compared with, at most, unless negative_mining is all; needs
    a memory."""
    semi_hard_share: Annotated[float, Gt(0), Le(1)] = 0.1
    """Share of an anchor's positives, and of its negatives, that semi-hard mining draws from; needs a
    memory."""


def _default_size(name: str, per_image: int, num_classes: int, num_images: int | None) -> int:
    if num_images is None:
        raise ValueError(
            f"{name} is not set, and stands for {per_image} per training image: set it, or num_images"
        )
    return min(per_image * num_images, MAX_MEMORY_ROWS // num_classes)


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Field → type, with its range."""
    return get_type_hints(kind, include_extras=True)


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise ``ValueError`` if the type of a field does not allow the value."""
    if get_origin(hint) in (Union, UnionType):  # T | None
        if value is None:
            return
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ValueError(f"{name} is {value!r}; there are {', '.join(get_args(hint))}")
    _check_type(name, value, getattr(hint, "__origin__", hint))
    for bound in getattr(hint, "__metadata__", ()):
        match bound:
            case Ge(ge=limit):
                allowed, says = value >= limit, f"at least {limit}"
            case Gt(gt=limit):
                allowed, says = value > limit, f"above {limit}"
            case Le(le=limit):
                allowed, says = value <= limit, f"at most {limit}"
            case Lt(lt=limit):
                allowed, says = value < limit, f"below {limit}"
            case _:
                raise AssertionError(f"{name} has the bound {bound}, which is not checked")
        if not allowed:
            raise ValueError(f"{name} is {value!r}; it must be {says}")


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Raise ``ValueError`` unless a bool, a whole number or a finite one is what the field asks for."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    if kind is int and not (is_number and isinstance(value, int)):
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    if kind is float and not (is_number and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
