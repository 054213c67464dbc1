"""What the tests of Ray's instance start on it, and how its processes are told apart."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from pixelcontrast.config import Data, Experiment, Run, Workers

PATHS = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
"""For PYTHONPATH: Ray's processes import the loops of this folder, too."""
WORKER = re.compile("RayTrainWorker|LoneWorker")


def tiny_experiment(folder: Path, *, workers: int) -> Experiment:
    """For the loops of ``cluster_loops``: its data are an empty folder."""
    (folder / "data").mkdir()
    return Experiment(
        data=Data(layout="camvid", root=str(folder / "data")),
        run=Run(
            name="tiny", storage=str(folder / "runs"), workers=Workers(workers), device="cpu", max_failures=1
        ),
    )


def names_of(processes: Iterable[psutil.Process]) -> Iterator[str]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield process.name()


def workers_of(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [found for found in processes if any(map(WORKER.search, names_of([found])))]
