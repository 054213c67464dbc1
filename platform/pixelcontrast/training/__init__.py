"""Training in plain torch: the step, the loop, checkpoints. Knows no Ray."""

from pixelcontrast.training.contrast import memory_bytes
from pixelcontrast.training.loop import fit
from pixelcontrast.training.preflight import check, check_inputs
from pixelcontrast.training.reproduce import reproduce
from pixelcontrast.training.run_folder import read_experiment
from pixelcontrast.training.verify import verify

__all__ = [
    "check",
    "check_inputs",
    "fit",
    "memory_bytes",
    "read_experiment",
    "reproduce",
    "verify",
]
