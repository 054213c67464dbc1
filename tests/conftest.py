"""One thread per process, small generated scenes, and an object store."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from object_store import CREDENTIALS, ObjectStore
from pixelcontrast.scenes import streets

# With more threads than free cores, OpenMP's spinning stalls single steps for seconds.
os.environ["OMP_NUM_THREADS"] = "1"  # for child processes
torch.set_num_threads(1)
# Those of the tests' own object store; nobody's real ones are used.
os.environ |= CREDENTIALS


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated street scenes of 64×128 pixels in the Cityscapes layout: 10 to train on, 5 to validate."""
    folder = tmp_path_factory.mktemp("scenes")
    streets.write(folder, num_train=10, num_val=5, size=(64, 128), seed=0)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    """A real S3 server on this machine."""
    with ObjectStore() as store:
        yield store


@pytest.fixture
def object_store(s3_server: ObjectStore) -> ObjectStore:
    """The server, with its bucket."""
    s3_server.make_bucket()
    return s3_server
