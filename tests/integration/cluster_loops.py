"""Tiny training loops for the tests of the launcher: they all-reduce and report, as the real one does.

What goes wrong goes wrong on the last worker, which may be the only one.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pixelcontrast import distributed
from pixelcontrast.config import Experiment
from pixelcontrast.storage import Storage

Report = Callable[[dict], None]
Stop = Callable[[], bool]


def counting(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """Reports the all-reduced rank sum, and what a worker sees of its surroundings."""
    del stop
    for step in range(1, 8):
        seen = {
            "threads": torch.get_num_threads(),
            "omp": os.environ["OMP_NUM_THREADS"],
            "address": os.environ["RAY_ADDRESS"],
            "commit": os.environ.get("PIXELCONTRAST_COMMIT"),
            "device": device.type,
            "root": experiment.data.root,
        }
        report({"kind": "train", "step": step, "sum": _ranks(), "pid": os.getpid(), **seen})


LOOKED = "looked"
"""A file in the run's storage: the driver has looked at the workers."""


def counting_until_looked_at(
    experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop
) -> None:
    """``counting``, and then waits for the file ``LOOKED``, at most a minute: till then there are workers."""
    counting(experiment, device=device, report=report, stop=stop)
    until = time.monotonic() + 60
    while not (Path(experiment.run.storage) / LOOKED).exists() and time.monotonic() < until:
        time.sleep(0.05)


def killed_then_buggy(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """The last worker is killed in the first attempt, and in the second raises what cannot be pickled."""
    del device, stop
    attempt = _attempt(experiment)
    for step in (1, 2):
        report({"kind": "train", "step": step, "attempt": attempt, "sum": _ranks()})
    # Rank 0 has handed over its second row when it comes here.
    distributed.barrier()
    if _last() and attempt == 1:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    if _last():
        raise _UnpicklableError(threading.Lock())
    distributed.barrier()


def bad_file(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """The last worker finds a broken file, the others wait for it."""
    del device, stop
    attempt = _attempt(experiment)
    report({"kind": "train", "step": attempt})
    if distributed.rank() == 0:
        logging.getLogger("pixelcontrast.training").warning("a warning for the user")
    if _last():
        raise ValueError("frames/17.png: not an image")
    distributed.barrier()


def endless(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """Trains until it is stopped."""
    del experiment, device, stop
    folder = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
    step = 0
    while True:
        step += 1
        report({"kind": "train", "step": step, "sum": _ranks(), "folder": str(folder)})
        time.sleep(0.2)


def always_buggy(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """The last worker fails in every attempt, each time with another message."""
    del device, report, stop
    attempt = _attempt(experiment)
    if _last():
        raise RuntimeError(f"attempt {attempt} went wrong")
    distributed.barrier()


def frozen_once(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """In the first attempt, the last worker's process is stopped as by SIGSTOP or a dead machine."""
    del device, stop
    attempt = _attempt(experiment)
    report({"kind": "train", "step": 1, "attempt": attempt, "sum": _ranks()})
    if _last() and attempt == 1:
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGSTOP)
        _go_astray()  # in the moment until all threads have stopped
    report({"kind": "train", "step": 2, "attempt": attempt, "sum": _ranks()})


def astray_once(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """In the first attempt, the last worker leaves the others alone in a collective."""
    del device, stop
    attempt = _attempt(experiment)
    if _last() and attempt == 1:
        _go_astray()
    report({"kind": "train", "step": 1, "attempt": attempt, "sum": _ranks()})


def slow_store(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """The last worker writes a file for twenty seconds, into a pipe that nobody reads before."""
    del device
    attempt = _attempt(experiment)
    stop()
    if _last():
        pipe = Path(experiment.data.root) / f".written-{attempt}.partial"
        os.mkfifo(pipe)
        threading.Timer(20, pipe.read_bytes).start()
        with contextlib.suppress(OSError):  # a pipe cannot be synced
            Storage(experiment.data.root).write(f"written-{attempt}", b"content")
    report({"kind": "train", "step": 1, "attempt": attempt, "sum": _ranks()})


def _go_astray() -> None:
    while True:
        time.sleep(0.1)


class _UnpicklableError(RuntimeError):
    pass


def _ranks() -> float:
    return distributed.all_reduce(torch.tensor(float(distributed.rank() + 1))).item()


def _last() -> bool:
    return distributed.rank() == distributed.world_size() - 1


def _attempt(experiment: Experiment) -> int:
    """Which attempt this is, from 1, the same on every rank."""
    marks = Path(experiment.data.root)
    if distributed.rank() == 0:
        (marks / f"attempt-{time.time_ns()}").touch()
    distributed.barrier()
    return len(list(marks.glob("attempt-*")))
