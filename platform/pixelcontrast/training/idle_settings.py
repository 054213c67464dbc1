"""Settings that have no effect beside others: a run starts with them, and says so."""

from collections.abc import Iterator
from dataclasses import fields

from pixelcontrast.config import Contrast, Experiment, Model, Optim
from pixelcontrast.contrast.hyperparameters import MemoryConfig, MiningConfig

_OF_QUEUE = {"pixel_queue_size", "pixels_per_image", "boundary_share"}
_OF_REGIONS = {"region_memory_size"}
_OF_MEMORY = {field.name for part in (MemoryConfig, MiningConfig) for field in fields(part)} - {"memory"}
_OF_MEMORY |= {"memory_term", "memory_weight"}
_IDLE = {"none": _OF_MEMORY, "pixel": _OF_REGIONS, "region": _OF_QUEUE, "both": set[str]()}
"""``memory`` → the settings that act on what it leaves out."""


def idle_settings(experiment: Experiment) -> Iterator[str]:
    """One line for each cause, with the settings, not at their defaults, that it leaves without effect."""
    model, optim = experiment.model, experiment.optim
    if (line := _without_memory(experiment.contrast)) is not None:
        yield line
    if model.decoder != "hrnet" and model.decoder_kernel != Model().decoder_kernel:
        yield f"model.decoder_kernel {model.decoder_kernel} has no effect: model.decoder is {model.decoder}"
    if model.decoder in ("hrnet", "linear") and optim.auxiliary_weight != Optim().auxiliary_weight:
        yield (
            f"optim.auxiliary_weight {optim.auxiliary_weight} has no effect: model.decoder {model.decoder} "
            "has no auxiliary head"
        )
    if optim.lr_warmup_steps >= optim.steps:
        yield (
            f"optim.lr {optim.lr:g} is never reached: optim.lr_warmup_steps is {optim.lr_warmup_steps} and "
            f"optim.steps {optim.steps}"
        )


def _without_memory(contrast: Contrast) -> str | None:
    """The line on a memory that is not there. A weight of 0, the baseline, has no use for any setting."""
    default = Contrast()
    idle = [
        f"contrast.{field.name} {getattr(contrast, field.name)}"
        for field in fields(contrast)
        if field.name in _IDLE[contrast.memory]
        and getattr(contrast, field.name) != getattr(default, field.name)
    ]
    if not idle or contrast.weight == 0:
        return None
    have = "has" if len(idle) == 1 else "have"
    return f"{', '.join(idle)} {have} no effect: contrast.memory is {contrast.memory}"
