"""The actor between driver and training: it runs the latter, and collects the workers' events for the driver.

It owns all that trains: when it is killed, or when the driver dies, the workers end. There are two kinds:
``trainer.RayTrainer`` runs Ray's trainer; ``LoneWorker`` is the only worker of its training. This module
imports Ray, but none of its libraries.
"""

import os
import queue
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from pixelcontrast.cluster.errors import WorkerError, first_cause
from pixelcontrast.cluster.train.events import Alive, Beat, Event, Finished
from pixelcontrast.cluster.train.worker import Loop, run_loop
from pixelcontrast.config import Experiment, Workers
from pixelcontrast.runs.launch_mark import Mark

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What Ray's trainer is built from.

    Attributes:
        experiment: with absolute paths.
        workers: to ask Ray for at the next start.
        loop: the training.
        mark: what the driver has left in the run's folder, for the workers to find.
        resources: of one worker, by Ray's names.
        loopback: all workers are on this machine and must listen on 127.0.0.1 only.
        storage: a folder or URI for Ray's own files.
        placement_attempts: how often Ray tries to place the workers before it gives up.
    """

    experiment: Experiment
    workers: Workers
    loop: Loop
    mark: Mark
    resources: Mapping[str, float]
    loopback: bool
    storage: str
    placement_attempts: int

    @property
    def alone(self) -> bool:
        """Whether there is one worker, ever: ``LoneWorker`` runs it. Ray's trainer would start
        half a dozen processes beside it."""
        return self.experiment.run.workers.max == 1

    @property
    def on_gpu(self) -> bool:
        return "GPU" in self.resources

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every worker's process."""
        return _threads(self.experiment.run.cpus_per_worker) | _interfaces(self.loopback)


class Launcher:
    """Runs a plan in one thread (``fit``); the workers' calls and the driver's arrive in others."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = False

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.put(event)

    def beat(self, rank: int, beat: Beat) -> bool:
        """Take a worker's heartbeat; True asks it to write a checkpoint and end."""
        self.put(Alive(rank, beat))
        return self._stop

    def ask_to_stop(self, stop: bool) -> None:
        """Set the answer to the next heartbeats."""
        self._stop = stop

    def take(self, timeout_s: float) -> list[Event]:
        """All events since the last call, in order; waits for the first, or until the time is over."""
        try:
            events = [self._events.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def fit(self, plan: Plan) -> None:
        """Train; the last event is ``Finished``."""
        raise NotImplementedError


class LoneWorker(Launcher):
    """The only worker of a training, and its launcher: without Ray's trainer, and without a process group."""

    def fit(self, plan: Plan) -> None:
        """Train; the last event is ``Finished``."""
        # What the loop tells the launcher goes through Ray to the other threads of this actor.
        launcher, find_device = ray.get_runtime_context().current_actor, _gpu if plan.on_gpu else _cpu
        try:
            run_loop(
                plan.experiment,
                plan.loop,
                launcher=launcher,
                rank=0,
                mark=plan.mark,
                find_device=find_device,
            )
        except WorkerError as error:
            self.put(Finished(first_cause({0: error})))
        else:
            self.put(Finished(None))


def _cpu() -> "torch.device":
    import torch

    return torch.device("cpu")


def _gpu() -> "torch.device":
    """The worker's GPU: Ray hides all but those that it gave to this process."""
    import torch

    return torch.device("cuda", 0)


def _threads(count: int) -> dict[str, str]:
    return {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}


def _interfaces(loopback: bool) -> dict[str, str]:
    """Variables that keep gloo and NCCL on loopback, instead of the interface of the machine's name."""
    if not loopback:
        return {}
    name = "lo0" if os.uname().sysname == "Darwin" else "lo"
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
