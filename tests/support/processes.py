"""Run a function in several processes of one gloo group."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

# Processes are forked from a server that has imported what the tests' modules import: seconds less for each.
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["pixelcontrast.training", "pytest", "moto.server"])


def run_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """``function(rank, world_size, *args)`` in each of ``world_size`` processes; their results in rank order.

    ``function`` is a module's top-level function. Results travel through files: tensors and plain values.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, folder, function, args)
        start_processes(_run, arguments, nprocs=world_size, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _run(
    rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        torch.save(function(rank, world_size, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
