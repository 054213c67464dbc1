"""Tiny training loops for the tests of the launcher: they all-reduce and report, as the real one does."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from pixelcontrast.config import Experiment

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


def killed_then_buggy(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """Rank 1 is killed in the first attempt, and raises something that cannot be pickled in the second."""
    del device, stop
    attempt = _attempt(experiment)
    for step in (1, 2):
        report({"kind": "train", "step": step, "attempt": attempt, "sum": _ranks()})
    # Rank 0 has handed over its second row when it comes here.
    dist.barrier()
    if dist.get_rank() == 1 and attempt == 1:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    if dist.get_rank() == 1:
        raise _UnpicklableError(threading.Lock())
    dist.barrier()


def bad_file(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """Rank 1 finds a broken file, the others wait for it."""
    del device, stop
    attempt = _attempt(experiment)
    report({"kind": "train", "step": attempt})
    if dist.get_rank() == 0:
        logging.getLogger("pixelcontrast.training").warning("a warning for the user")
    if dist.get_rank() == 1:
        raise ValueError("frames/17.png: not an image")
    dist.barrier()


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
    """Rank 1 fails in every attempt, each time with another message."""
    del device, report, stop
    attempt = _attempt(experiment)
    if dist.get_rank() == 1:
        raise RuntimeError(f"attempt {attempt} went wrong")
    dist.barrier()


def frozen_once(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """In the first attempt, rank 1's process is stopped as by SIGSTOP or a dead machine."""
    del device, stop
    attempt = _attempt(experiment)
    report({"kind": "train", "step": 1, "attempt": attempt, "sum": _ranks()})
    if dist.get_rank() == 1 and attempt == 1:
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGSTOP)
        _go_astray()  # in the moment until all threads have stopped
    report({"kind": "train", "step": 2, "attempt": attempt, "sum": _ranks()})


def astray_once(experiment: Experiment, /, *, device: torch.device, report: Report, stop: Stop) -> None:
    """In the first attempt, rank 1 leaves the others alone in a collective."""
    del device, stop
    attempt = _attempt(experiment)
    if dist.get_rank() == 1 and attempt == 1:
        _go_astray()
    report({"kind": "train", "step": 1, "attempt": attempt, "sum": _ranks()})


def _go_astray() -> None:
    while True:
        time.sleep(0.1)


class _UnpicklableError(RuntimeError):
    pass


def _ranks() -> float:
    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    return total.item()


def _attempt(experiment: Experiment) -> int:
    """Which attempt this is, from 1, the same on every rank."""
    marks = Path(experiment.data.root)
    if dist.get_rank() == 0:
        (marks / f"attempt-{time.time_ns()}").touch()
    dist.barrier()
    return len(list(marks.glob("attempt-*")))
