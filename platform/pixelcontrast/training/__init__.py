"""Training in plain torch: the step, the loop, what goes into a checkpoint. Knows no Ray."""

from pixelcontrast.training.contents import verify
from pixelcontrast.training.contrast import memory_bytes
from pixelcontrast.training.loop import fit
from pixelcontrast.training.preflight import check, check_inputs

__all__ = [
    "check",
    "check_inputs",
    "fit",
    "memory_bytes",
    "verify",
]
