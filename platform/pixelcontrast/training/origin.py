"""Where an attempt comes from: code and versions (``runs.provenance``), machine, threads, workers, seed."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pixelcontrast import config, distributed
from pixelcontrast.config import Experiment
from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.runs import provenance


def collect(experiment: Experiment, *, device: torch.device) -> dict[str, Any]:
    """What another person needs to know to repeat this attempt, as plain JSON values; call it on every rank.

    The machine is that of all ranks, threads and versions are this rank's.
    """
    return {
        "git": provenance.git_state(),
        "source": provenance.source_hash(),
        "configuration": config.fingerprint(experiment),
        "versions": provenance.versions(),
        "machine": "; ".join(dict.fromkeys(distributed.gather_objects(_machine(device)))),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "world_size": distributed.world_size(),
        "compile": experiment.run.compile,
        "seed": experiment.run.seed,
    }


def describe_data(train_set: SegmentationSet, val_set: SegmentationSet) -> dict[str, Any]:
    """The lists of images: ``data``, their fingerprints, and ``images``, their numbers, each by split."""
    return {
        "data": {"train": train_set.fingerprint, "val": val_set.fingerprint},
        "images": {"train": len(train_set), "val": len(val_set)},
    }


def check_same_data(
    experiment: Experiment, before: Mapping[str, str], now: Mapping[str, str], *, option: str = "--run.name"
) -> None:
    """Refuse to resume on other data: ``data.root`` may have moved, but positions in the sample stream must
    mean the same images, and train ids the same classes.

    Args:
        before: ``data`` of ``describe_data``, as an earlier attempt recorded it.
        now: likewise.
        option: what to choose another name by.

    Raises:
        ValueError: they differ.
    """
    for split, fingerprint in now.items():
        if fingerprint != before[split]:
            raise ValueError(
                f"data.root {experiment.data.root}: the {split} images or their classes are not those that "
                f"run {experiment.run.name} began with (perhaps dataset.toml was edited); restore them, or "
                f"choose another {option}"
            )


def processor() -> str:
    """The CPU's name, with the instructions that torch uses on it: virtual machines often hide the former."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = next(iter(names), platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def _machine(device: torch.device) -> str:
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return gpu + processor()
