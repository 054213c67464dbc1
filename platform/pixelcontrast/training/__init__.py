"""Training in plain torch: the step, the loop, what goes into a checkpoint. Knows no Ray."""

from pixelcontrast.training.check_experiment import check, check_inputs, check_runs_data
from pixelcontrast.training.contrast import memory_bytes
from pixelcontrast.training.loop import fit
from pixelcontrast.training.verify_contents import verify

__all__ = [
    "check",
    "check_inputs",
    "check_runs_data",
    "fit",
    "memory_bytes",
    "verify",
]
