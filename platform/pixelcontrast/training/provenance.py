"""Where a result comes from: code, versions, machine, threads, seed, workers."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from pixelcontrast import distributed
from pixelcontrast.config import Experiment

_PACKAGES = ("pixelcontrast", "torch", "torchvision", "timm", "numpy", "ray")


def collect(experiment: Experiment, *, device: torch.device) -> dict[str, Any]:
    """What another person needs to know to repeat this attempt, as plain JSON values."""
    on_cuda = device.type == "cuda"
    return {
        "git": _git_state(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "machine": torch.cuda.get_device_name(device)
        if on_cuda
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "world_size": distributed.world_size(),
        "seed": experiment.run.seed,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # sent to the cluster with a job, not installed
        return "not installed"


def _git_state() -> str:
    """The commit, ``-dirty`` where files differ from it; ``unknown`` where the code came without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
