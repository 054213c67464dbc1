"""One thread per process, and small generated scenes."""

import os
from pathlib import Path

import pytest
import torch

from pixelcontrast.datasets import streets

# With more threads than free cores, OpenMP's spinning stalls single steps for seconds.
os.environ["OMP_NUM_THREADS"] = "1"  # for child processes
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated street scenes of 64×128 pixels in the Cityscapes layout: 10 to train on, 5 to validate."""
    folder = tmp_path_factory.mktemp("scenes")
    streets.write(folder, num_train=10, num_val=5, size=(64, 128), seed=0)
    return folder
