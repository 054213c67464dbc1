"""A run, or a search, on disk: folder, checkpoint format, provenance, and who reads them.

Knows the configuration and nothing of how a network is trained: reading a run loads no torch.
"""

from pixelcontrast.runs.reproduce import reproduce
from pixelcontrast.runs.run_folder import open_storage, read_experiment_file

__all__ = ["open_storage", "read_experiment_file", "reproduce"]
