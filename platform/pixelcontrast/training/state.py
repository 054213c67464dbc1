"""All that a run is at one moment, and how it goes into a checkpoint and comes back."""

import io
import json
import pickle
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pixelcontrast import distributed, draws
from pixelcontrast.config import Experiment, check_memory
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.contrast.banks import reshard
from pixelcontrast.models import SegmentationModel, build_model
from pixelcontrast.models.batchnorm import synchronize_batchnorm
from pixelcontrast.training.contrast import build_contrast
from pixelcontrast.training.optim import build_optimizer

_INITIAL_WEIGHTS, _STEP = 100, 101
"""Names of the streams that seed torch's own generator."""
_LOOP = ("step", "best_step", "best_miou", "skipped_in_row")


@dataclass
class TrainState:
    """Network, memory, optimiser and the place in the run; ``model`` is not wrapped in DDP."""

    model: SegmentationModel
    contrast: PixelContrast | None
    optimizer: Optimizer
    step: int = 0
    """Steps done; the sample stream continues at step · batch_size."""
    best_step: int = 0
    best_miou: float = -1.0
    skipped_in_row: int = 0
    """Steps left out since the last one that was not."""

    def to_parts(self) -> dict[str, bytes]:
        """The files of a checkpoint that this rank writes: rank 0 all but the other ranks' memory."""
        parts = self._memory_part()
        if distributed.rank() > 0:
            return parts
        buffer = io.BytesIO()
        torch.save(self.optimizer.state_dict(), buffer)
        loop = {name: getattr(self, name) for name in _LOOP}
        return parts | {
            "model.safetensors": _tensors_to_bytes(self.model),
            "optimizer.pt": buffer.getvalue(),
            "loop.json": json.dumps(loop).encode(),
        }

    def check_finite(self) -> None:
        """Raise ``ValueError`` if a weight or a statistic of the network is not finite."""
        for name, tensor in self.model.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(
                    f"after step {self.step} {name} is not finite, although loss and gradients were: "
                    "lower optim.lr or set optim.clip_norm"
                )

    def _memory_part(self) -> dict[str, bytes]:
        if self.contrast is None:
            return {}
        shard = self.contrast.shard
        if shard.of == 1 and distributed.rank() > 0:
            return {}
        return {_memory_file(shard.index, shard.of): _tensors_to_bytes(self.contrast)}

    def restore(self, parts: dict[str, bytes]) -> None:
        """Become what ``to_parts`` wrote.

        Raises:
            ValueError: ``optimizer.pt`` holds what could run code; none of it is run.
            KeyError, RuntimeError: something does not fit.
        """
        self.model.load_state_dict(safetensors.torch.load(parts["model.safetensors"]))
        if self.contrast is not None:
            of = sum(name.startswith("memory-") for name in parts)
            shards = [safetensors.torch.load(parts[_memory_file(index, of)]) for index in range(of)]
            self.contrast.load_state_dict(reshard(shards, self.contrast.shard))
        self.optimizer.load_state_dict(_read_tensors(parts["optimizer.pt"], "optimizer.pt"))
        for key, value in json.loads(parts["loop.json"]).items():
            setattr(self, key, value)


def build_state(
    experiment: Experiment, *, num_classes: int, num_images: int, device: torch.device
) -> TrainState:
    """The state of a run before its first step: the same on every rank.

    Raises:
        ValueError: a network that cannot be built, or a memory too large for the GPU.
    """
    torch.manual_seed(int(draws.hashed(experiment.run.seed, _INITIAL_WEIGHTS)))
    contrast = build_contrast(experiment, num_classes=num_classes, num_images=num_images)
    if contrast is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        part = experiment.run.gpus_per_worker  # other workers have the rest of the GPU
        check_memory(contrast.memory.nbytes, part * total, f"this worker's part of {device}'s memory")
    model = build_model(experiment.model, num_classes=num_classes, embedding=contrast is not None)
    model = synchronize_batchnorm(model.to(device), device)
    assert isinstance(model, SegmentationModel)
    return TrainState(model, contrast and contrast.to(device), build_optimizer(model, experiment.optim))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generator (dropout) for one step, so that no generator state needs to be saved."""
    torch.manual_seed(int(draws.hashed(seed, _STEP, step, rank)))


def _memory_file(index: int, of: int) -> str:
    return f"memory-{index}-of-{of}.safetensors"


def _read_tensors(content: bytes, name: str) -> dict[str, Any]:
    try:
        # Not to the GPU that they were saved from: there may be none, or it is another worker's.
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"a checkpoint's {name} holds more than tensors and numbers, which could run code: it is not "
            "this run's own, and not read"
        ) from error


def _tensors_to_bytes(module: nn.Module) -> bytes:
    tensors: dict[str, Tensor] = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
    return safetensors.torch.save(tensors)
