"""A local instance of Ray that does not start, and one whose driver is killed: nothing of it is left."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster_processes import PATHS, tiny_experiment, workers_of

from pixelcontrast.config import to_json

DRIVER = """
import sys
import cluster_loops
from pixelcontrast.cluster.train.launch import launch
from pixelcontrast.config import from_json

def on_row(row):
    print(row["folder"], flush=True)


launch(from_json(sys.argv[1]), on_row=on_row, loop=cluster_loops.endless)
"""


SLOW_DASHBOARD = """
from ray._private import ray_constants
ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = 3

from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.local import local_instance

try:
    with local_instance(1):
        pass
except LaunchError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_ray_that_does_not_start_in_time_is_one_line_and_leaves_nothing(monkeypatch):
    """Under a frozen dashboard, as on a machine that has no time for it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = set(Path("/tmp").glob("pixelcontrast-*"))
    command = [sys.executable, "-c", SLOW_DASHBOARD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _freeze(process.pid, "dashboard.py")
        printed, _ = process.communicate(timeout=150)
    *_, line = printed.splitlines()
    assert line.startswith(
        "Ray did not start on this machine: its dashboard did not answer in time. A machine"
    )
    assert set(Path("/tmp").glob("pixelcontrast-*")) <= before


def _freeze(driver: int, name: str) -> None:
    """SIGSTOP to the driver's process of that name, as soon as there is one."""
    for _ in range(600):
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(part.endswith(name) for part in process.cmdline()):
                    process.suspend()
                    return
        time.sleep(0.1)
    raise AssertionError(f"{name} was never started")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_driver_leaves_nothing_behind(workers, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", PATHS)
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, to_json(tiny_experiment(tmp_path, workers=workers))],
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        folder = Path(driver.stdout.readline().strip())
        assert (folder / "token").exists()
        processes = psutil.Process(driver.pid).children(recursive=True)
        assert workers_of(processes)
        driver.kill()
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert not folder.exists()
