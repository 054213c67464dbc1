"""The training loop: plain torch, in one process or in every process of a ``torch.distributed`` group."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch.nn.parallel import DistributedDataParallel

from pixelcontrast import distributed
from pixelcontrast.config import Data, Experiment
from pixelcontrast.datasets.packing.staging import stage_pack
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset
from pixelcontrast.runs.launch_mark import Mark
from pixelcontrast.runs.resume import check_resumable
from pixelcontrast.runs.run_folder import Row, open_storage
from pixelcontrast.training.batches import Batches
from pixelcontrast.training.checkpointing import restore_newest
from pixelcontrast.training.contrast import warmup_steps
from pixelcontrast.training.idle_settings import idle_settings
from pixelcontrast.training.optim import set_rate
from pixelcontrast.training.origin import collect, describe_data
from pixelcontrast.training.recorder import Attempt, Recorder
from pixelcontrast.training.state import TrainState, build_state, seed_step
from pixelcontrast.training.step import autocast_dtype, train_step

logger = logging.getLogger(__name__)


def fit(
    experiment: Experiment,
    *,
    device: torch.device,
    report: Callable[[Row], None],
    stop: Callable[[], bool] = lambda: False,
    mark: Mark | None = None,
) -> int | None:
    """Train to the last step, from the newest valid checkpoint of the run where there is one.

    Called in every process of the default process group, or in a single process without one.

    Args:
        device: this process's device.
        report: called on every rank with the same rows, those that go into ``metrics.jsonl``.
        stop: asked before every step; once it is true on any rank, all ranks write a checkpoint and return.
            Also called, to show progress, after every image that this rank evaluates; answers are ignored.
        mark: the driver's, seen in the run's folder: once it is gone, nothing more is written there.

    Returns:
        The step at which it was stopped, or None at the end of the training.

    Raises:
        ValueError: the run's folder was written under another configuration, a data file is wrong, the
            training came to numbers that are not finite (``optim.non_finite``), or ``mark`` is gone.
        CheckpointError: checkpoints existed, and all are damaged or gone.
    """
    check_resumable(open_storage(experiment), experiment)
    train_set, val_set = _datasets(experiment.data)
    num_classes, num_images = train_set.labels.num_classes, len(train_set)
    state = build_state(experiment, num_classes=num_classes, num_images=num_images, device=device)
    origin = collect(experiment, device=device) | describe_data(train_set, val_set)
    attempt = _begin(experiment, state, origin, device=device, mark=mark)
    batches = Batches(experiment, state, train_set, device)
    with Recorder(experiment, state, batches, val_set, attempt=attempt, report=report) as recorder:
        network = _distribute(state.model, device, compiled=experiment.run.compile)
        settings = _step_settings(experiment, device)
        vote = distributed.Vote()
        for batch in batches:
            if vote.cast(stop()):
                recorder.stop()
                return state.step
            seed_step(experiment.run.seed, state.step, distributed.rank())
            rate = set_rate(state.optimizer, state.step, experiment.optim)
            schedule = contrast_schedule(experiment, state.step)
            if state.contrast is not None and schedule.starts:
                state.contrast.memory.clear()
            losses = train_step(
                network,
                state.contrast,
                state.optimizer,
                batch,
                head_only=schedule.head_only,
                measure_gradients=_reports(experiment, state.step + 1),
                **settings,
            )
            state.step += 1
            recorder.after_step(losses, rate, on_image=stop)
        recorder.finish()
    return None


def _datasets(data: Data) -> tuple[SegmentationSet, SegmentationSet]:
    """To train and to validate on, copied to this machine where they are staged."""
    staged = stage_pack(data)
    return build_dataset(staged, "train"), build_dataset(staged, "val")


def _begin(
    experiment: Experiment,
    state: TrainState,
    origin: Mapping[str, Any],
    *,
    device: torch.device,
    mark: Mark | None,
) -> Attempt:
    """Resume where there is a checkpoint, and describe the attempt that begins."""
    resumed = restore_newest(open_storage(experiment), experiment, state, origin)
    return Attempt(origin=origin, resumed=resumed, device=device, mark=mark)


def warn_of_emulated_precision(experiment: Experiment, device: torch.device) -> None:
    """Log on rank 0 that this CPU has no bfloat16 instructions, where the run asks for bfloat16."""
    if experiment.run.precision != "bfloat16" or device.type != "cpu" or distributed.rank() > 0:
        return
    capabilities = torch.cpu.get_capabilities()
    if capabilities["architecture"] == "x86_64" and not capabilities["avx512_f"]:
        # forward and backward of hrnet_w18_small, 8 × 192×256: 1 s in float32, 9 s in bfloat16 (EPYC 7003)
        logger.warning(
            "run.precision is bfloat16, but %s has no instructions for it (AVX-512): a step may take ten "
            "times as long as with --run.precision float32",
            capabilities["cpu_name"],
        )


def warn_of_idle_settings(experiment: Experiment) -> None:
    """Log on rank 0 which settings have no effect beside others."""
    if distributed.rank() == 0:
        for line in idle_settings(experiment):
            logger.warning("%s", line)


class ContrastSchedule(NamedTuple):
    """How the contrastive term acts in one step."""

    head_only: bool
    """Whether it trains the projection head alone."""
    starts: bool
    """Whether it is the first step after those, so that the memory holds an untrained head's rows."""


def contrast_schedule(experiment: Experiment, step: int) -> ContrastSchedule:
    """At a step counted from 0: through warm-up the head alone is trained."""
    begin = warmup_steps(experiment)
    return ContrastSchedule(head_only=step < begin, starts=step == begin > 0)


class _StepSettings(TypedDict):
    """Arguments of ``train_step`` that are the same in every step."""

    contrast_weight: float
    auxiliary_weight: float
    class_weights: Tensor | None
    clip_norm: float | None
    autocast: torch.dtype | None
    skip_non_finite: bool


def _step_settings(experiment: Experiment, device: torch.device) -> _StepSettings:
    """What a step needs to know; the process's products of matrices are from now on as the run wants them."""
    warn_of_emulated_precision(experiment, device)
    warn_of_idle_settings(experiment)
    torch.set_float32_matmul_precision(experiment.run.matmul_precision)
    optim = experiment.optim
    return {
        "contrast_weight": experiment.contrast.weight,
        "auxiliary_weight": optim.auxiliary_weight,
        "class_weights": torch.tensor(optim.class_weights, device=device) if optim.class_weights else None,
        "clip_norm": optim.clip_norm,
        "autocast": autocast_dtype(experiment.run),
        "skip_non_finite": optim.non_finite == "skip",
    }


def _reports(experiment: Experiment, step: int) -> bool:
    """Whether the gradients on the features are measured; compiled, the network hides them."""
    return step % experiment.run.report_interval == 0 and not experiment.run.compile


def _distribute(model: nn.Module, device: torch.device, *, compiled: bool) -> nn.Module:
    """The model as the step calls it: compiled if asked for, in DDP if there are several workers."""
    if compiled:
        # Else the backward pass is compiled when it is first run, in a thread of autograd's: the loop's own
        # stands still meanwhile, and is taken for one that hangs.
        functorch.force_non_lazy_backward_lowering = True
        model.compile()
    if distributed.world_size() == 1:
        return model
    # Buffers are equal on all ranks at any time: BatchNorm is synchronised.
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False)
