"""A run on a real local Ray, in an object store: a worker killed, then the driver, then the same command."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from object_store import CANARY, ObjectStore
from pixelcontrast import config, replace
from pixelcontrast.config import Workers
from pixelcontrast.reports import write_report
from pixelcontrast.runs.run_folder import open_storage, read_attempts
from resuming import experiment, train_ranks
from same_run import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DRIVER = "import sys; from pixelcontrast import config, main; main(config.from_json(sys.argv.pop(1)))"


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@contextmanager
def driver(settings: config.Experiment, messages: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", DRIVER, config.to_json(settings)]
    with (
        messages.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=messages.parent
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], step: int) -> list[psutil.Process]:
    """Wait until the driver has shown a step; returns its processes."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError(f"ended before step {step}")


def rays_folder(workers: list[psutil.Process]) -> Path:
    return Path(workers[0].environ()["RAY_AUTH_TOKEN_PATH"]).parent


def with_secret(folder: Path) -> list[Path]:
    """Ray's logs and other files that hold the secret of the environment."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [path for path in files if CANARY.encode() in path.read_bytes()]


def test_a_worker_and_the_driver_killed_and_the_run_ends_as_one_without_ray_never_interrupted(
    scenes: Path, tmp_path: Path, object_store: ObjectStore
) -> None:
    reference = replace(experiment(scenes, str(tmp_path / "reference")), {"run.workers": Workers(2)})
    train_ranks(reference, 2)
    settings = replace(reference, {"run.storage": object_store.uri("under-ray")})
    messages, trap, run = tmp_path / "messages", tmp_path / "trap", open_storage(settings)

    with driver(settings, messages) as process:
        processes = read_until(process, 4)
        workers = [found for found in processes if "RayTrainWorker" in found.name()]
        assert len(workers) == 2
        folder = rays_folder(workers)
        workers[1].kill()
        processes += read_until(process, 8)
        assert not with_secret(folder)
        process.send_signal(signal.SIGKILL)
    assert "retry 1 of 3" in messages.read_text()
    assert not run.exists("result.json")
    assert not psutil.wait_procs(processes, timeout=30)[1]

    rays = [name for name in run.sizes() if name.startswith(".ray/")]
    assert rays
    for name in [*rays, ".ray/tuner.pkl", ".ray/trainer.pkl"]:
        run.write(name, pickle.dumps(Trap(trap)))
    with driver(settings, messages) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, messages.read_text()
    assert (run / "result.json").location in output
    assert len(read_attempts(run)) == 3
    assert_same_run(settings, reference)
    assert not trap.exists()
    write_report(run.location)
    assert not [name for name in run.sizes() if CANARY.encode() in run.read(name)]
    assert CANARY not in output + messages.read_text()
