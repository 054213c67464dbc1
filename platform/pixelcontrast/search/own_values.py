"""The experiment's own values of what is searched: the trial that has them is a search's baseline."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.search.settings import Dimension, Search

_BANK_SIZES = ("contrast.pixel_queue_size", "contrast.region_memory_size")


def own_point(search: Search, own: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A known point, filled up with ``own_values`` where they lie in the space."""
    filled = {key: point.get(key, own[key]) for key in search.space}
    return {key: value for key, value in filled.items() if value in search.space[key]}


def outside(search: Search, experiment: Experiment) -> dict[str, Any]:
    """Key → the experiment's own value, where the space does not have it: there is no baseline then."""
    own = own_values(experiment, search.space)
    return {key: value for key, value in own.items() if value not in search.space[key]}


def own_values(experiment: Experiment, space: Mapping[str, Dimension]) -> dict[str, Any]:
    """The experiment's values, by key of the space; of a bank's size that is unset the number that it stands
    for, except where None itself is in the space.

    Raises:
        ValueError: that number depends on the data set, which cannot be read.
    """
    settings = config.flatten(experiment)
    own = {key: settings[key] for key in space}
    unset = [key for key in _BANK_SIZES if key in own and own[key] is None and None not in space[key]]
    if unset:
        from pixelcontrast.datasets.segmentation import build_dataset  # loads torch, which readers do without

        train_set = build_dataset(experiment.data, "train")
        counts = train_set.labels.num_classes, len(train_set)
        memory = replace(experiment.contrast, memory="both")  # the sizes, whether they are used or not
        sizes = dict(zip(_BANK_SIZES, (memory.pixels_of(*counts), memory.regions_of(*counts)), strict=True))
        own |= {key: size for key, size in sizes.items() if key in unset}
    return own
