"""The training loop: plain torch, in one process or in every process of a ``torch.distributed`` group."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pixelcontrast import distributed
from pixelcontrast.config import Experiment
from pixelcontrast.datasets.loading import Batch, train_loader
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.datasets.transforms import Normalization
from pixelcontrast.runs.run_folder import Row
from pixelcontrast.training.optim import set_rate
from pixelcontrast.training.recorder import Recorder
from pixelcontrast.training.state import build_state, seed_step
from pixelcontrast.training.step import train_step


def fit(
    experiment: Experiment,
    *,
    device: torch.device,
    report: Callable[[Row], None],
    stop: Callable[[], bool] = lambda: False,
) -> int | None:
    """Train to the last step, from the newest valid checkpoint of the run where there is one.

    Called in every process of the default process group, or in a single process without one.

    Args:
        device: this process's device.
        report: called on every rank with the same rows, those that go into ``metrics.jsonl``.
        stop: asked before every step; once it is true on any rank, all ranks write a checkpoint and return.

    Returns:
        The step at which it was stopped, or None at the end of the training.

    Raises:
        ValueError: the run's folder was written under another configuration, a data file is wrong, or the
            training came to numbers that are not finite (``optim.non_finite``).
        CheckpointError: checkpoints exist and all are damaged.
    """
    train_set, val_set = build_dataset(experiment.data, "train"), build_dataset(experiment.data, "val")
    optim, num_classes = experiment.optim, train_set.labels.num_classes
    state = build_state(experiment, num_classes=num_classes, num_images=len(train_set), device=device)
    autocast = torch.bfloat16 if experiment.run.precision == "bfloat16" else None
    class_weights = torch.tensor(optim.class_weights, device=device) if optim.class_weights else None
    observed = {"device": device, "autocast": autocast, "report": report}
    with Recorder(experiment, state, train_set, val_set, **observed) as recorder:
        network = _distribute(state.model, device, compiled=experiment.run.compile)
        loader = train_loader(
            train_set,
            experiment.data,
            seed=experiment.run.seed,
            batch_size=optim.batch_size,
            start_step=state.step,
            steps=optim.steps,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            normalization=Normalization(state.model.mean, state.model.std),
            pin_memory=device.type == "cuda",
        )
        vote = distributed.Vote()
        for batch in loader:
            if vote.cast(stop()):
                recorder.stop()
                return state.step
            seed_step(experiment.run.seed, state.step, distributed.rank())
            rate = set_rate(state.optimizer, state.step, optim)
            schedule = contrast_schedule(experiment, state.step)
            if state.contrast is not None and schedule.starts:
                state.contrast.memory.clear()
            losses = train_step(
                network,
                state.contrast,
                state.optimizer,
                Batch(*(tensor.to(device, non_blocking=True) for tensor in batch)),
                contrast_weight=experiment.contrast.weight,
                contrast_gradient=schedule.gradient,
                auxiliary_weight=optim.auxiliary_weight,
                class_weights=class_weights,
                clip_norm=optim.clip_norm,
                autocast=autocast,
                skip_non_finite=optim.non_finite == "skip",
                measure_gradients=_reports(experiment, state.step + 1),
            )
            state.step += 1
            recorder.after_step(losses, rate)
        recorder.finish()
    return None


class ContrastSchedule(NamedTuple):
    """How the contrastive term acts in one step."""

    gradient: float
    """The part of its gradient that reaches the network beyond the projection head: 0 to 1."""
    starts: bool
    """Whether it is the first step in which any does, so that the memory holds an untrained head's rows."""


def contrast_schedule(experiment: Experiment, step: int) -> ContrastSchedule:
    """At a step counted from 0: through warm-up the head alone is trained; then the gradient ramps up."""
    settings, steps = experiment.contrast, experiment.optim.steps
    begin = math.ceil(round(settings.warmup * steps, 6))
    if step < begin:
        return ContrastSchedule(0.0, False)
    ramp = settings.ramp * steps
    gradient = 1.0 if ramp == 0 else min((step - begin + 1) / ramp, 1.0)
    return ContrastSchedule(gradient, step == begin > 0)


def _reports(experiment: Experiment, step: int) -> bool:
    """Whether the gradients on the features are measured; compiled, the network hides them."""
    return step % experiment.run.report_interval == 0 and not experiment.run.compile


def _distribute(model: nn.Module, device: torch.device, *, compiled: bool) -> nn.Module:
    """The model as the step calls it: compiled if asked for, in DDP if there are several workers."""
    if compiled:
        model.compile()
    if distributed.world_size() == 1:
        return model
    # Buffers are equal on all ranks at any time: BatchNorm is synchronised.
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False)
