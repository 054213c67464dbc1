"""What a GPU computes is what the CPU does, within the bounds stated here: `make gpu-check`."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from contrasts import logits_for, pixel_contrast
from pixelcontrast import Model, Optim, distributed
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import build_model
from pixelcontrast.models.batchnorm import synchronize_batchnorm
from pixelcontrast.training import fit
from pixelcontrast.training.optim import build_optimizer
from pixelcontrast.training.step import train_step
from small_fit import experiment, metrics

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda", 0)
CLASSES, DIM = 19, 32
MEMORY: dict[str, Any] = {"pixel_queue_size": 200, "region_memory_size": 8, "num_images": 8}
MODES: dict[str, dict[str, Any]] = {
    "in-batch": {},
    "random": MEMORY,
    "joint": MEMORY | {"memory_term": "joint"},
    "all": MEMORY | {"positive_mining": "all", "negative_mining": "all"},
    "hardest": MEMORY | {"positive_mining": "hardest", "negative_mining": "hardest"},
    "semi-hard": MEMORY | {"positive_mining": "semi-hard", "negative_mining": "semi-hard"},
    "semi-hard-subset": MEMORY
    | {"positive_mining": "semi-hard-subset", "negative_mining": "semi-hard-subset"},
    "boundaries": MEMORY | {"boundary_share": 0.5},
    "rare": MEMORY | {"rare_class_power": 0.5},
}


def batch(step: int) -> dict[str, Tensor]:
    """Two images of 64×96 embeddings in blocks of one class, a tenth of them void, half of them wrong."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (2, 8, 12), generator=generator)
    labels = labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    predictions = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, 0)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return {
        "embeddings": F.normalize(torch.randn(2, DIM, 64, 96, generator=generator), dim=1),
        "labels": labels,
        "logits": logits_for(predictions, CLASSES),
        "positions": torch.arange(2) + 2 * step,
        "image_ids": torch.arange(2) + 2 * (step % 2),
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_term_and_its_gradient_are_the_cpu_s(mode: str) -> None:
    """Over three steps: what is drawn is equal, float32 sums differ by 1e-5 of the loss."""
    on_cpu = pixel_contrast(num_classes=CLASSES, embedding_dim=DIM, **MODES[mode])
    on_gpu = copy.deepcopy(on_cpu).to(GPU)
    for step in range(3):
        found = [
            _loss_and_gradient(contrast, batch(step), device)
            for contrast, device in ((on_cpu, torch.device("cpu")), (on_gpu, GPU))
        ]
        for on_host, on_device in zip(*found, strict=True):
            torch.testing.assert_close(on_device, on_host, rtol=1e-4, atol=1e-6)
        for (name, there), here in zip(on_gpu.named_buffers(), on_cpu.buffers(), strict=True):
            bounds = (1e-4, 1e-5) if here.is_floating_point() else (0.0, 0.0)
            torch.testing.assert_close(there.cpu(), here, rtol=bounds[0], atol=bounds[1], msg=name)


def _loss_and_gradient(
    contrast: PixelContrast, inputs: dict[str, Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    embeddings = moved["embeddings"].requires_grad_()
    loss = contrast(**moved)
    loss.backward()
    assert embeddings.grad is not None
    return loss.detach().cpu(), embeddings.grad.cpu()


def test_the_term_waits_for_the_gpu_at_most_thrice() -> None:
    contrast = pixel_contrast(num_classes=CLASSES, embedding_dim=DIM, **MEMORY).to(GPU)
    for step in range(2):
        contrast(**{name: tensor.to(GPU) for name, tensor in batch(step).items()})
    moved = {name: tensor.to(GPU) for name, tensor in batch(2).items()}
    torch.cuda.synchronize()
    with torch.profiler.profile() as profile:
        contrast(**moved)
    waits = sum(
        event.count
        for event in profile.key_averages()
        if event.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
    )
    assert 1 <= waits - 1 <= 3  # the profile ends with one of its own


def test_batchnorm_is_the_cpu_s() -> None:
    torch.manual_seed(0)
    on_cpu = nn.Sequential(nn.BatchNorm2d(8))
    on_gpu = synchronize_batchnorm(copy.deepcopy(on_cpu), GPU).to(GPU)
    images = torch.randn(4, 8, 16, 16) * 3 + 5
    for norm, inputs in ((on_cpu, images), (on_gpu, images.to(GPU))):
        norm(inputs)
    torch.testing.assert_close(on_gpu(images.to(GPU)).cpu(), on_cpu(images), rtol=1e-4, atol=1e-5)
    for there, here in zip(on_gpu.buffers(), on_cpu.buffers(), strict=True):
        torch.testing.assert_close(there.cpu(), here)


def _losses(device: torch.device, steps: int = 3, **how: Any) -> list[float]:
    """Losses of a small HRNet's first steps; ``how``: autocast, channels_last, compile."""
    torch.manual_seed(0)
    settings = Model(backbone="hrnet_w18_small", embedding_dim=DIM)
    model = build_model(settings, num_classes=CLASSES, embedding=True).to(device)
    if how.get("channels_last"):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if how.get("compile"):
        model.compile()
    contrast = pixel_contrast(num_classes=CLASSES, embedding_dim=DIM).to(device)
    optimizer = build_optimizer(model, Optim(lr=1e-3))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (2, 8, 8), generator=generator)
    labels = labels.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    images = torch.randn(2, 3, 128, 128, generator=generator)
    found = []
    for step in range(steps):
        inputs = Batch(images, labels, torch.arange(2), torch.arange(2) + 2 * step)
        moved = Batch(*(tensor.to(device) for tensor in inputs))
        losses = train_step(
            model, contrast, optimizer, moved, contrast_weight=1.0, autocast=how.get("autocast")
        )
        found.append(float(losses.total))
    return found


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        ({}, 2e-3),
        ({"channels_last": True}, 2e-3),
        ({"compile": True}, 2e-3),
        ({"autocast": torch.bfloat16}, 0.05),
    ],
    ids=["float32", "channels_last", "compile", "bfloat16"],
)
def test_a_training_step_is_the_cpu_s(how: dict[str, Any], tolerance: float) -> None:
    """Relative to the loss, over three steps: convolutions take TF32 on a GPU."""
    assert _losses(GPU, **how) == pytest.approx(_losses(torch.device("cpu")), rel=tolerance)


def test_collectives_of_one_rank_by_nccl() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("nccl", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            rows = torch.randn(5, 4, device=GPU, requires_grad=True)
            gathered = distributed._AllGatherRows.apply(rows, [5], None)
            assert torch.equal(gathered, rows)
            gathered.sum().backward()
            assert rows.grad is not None
            assert torch.equal(rows.grad, torch.ones_like(rows))
            sent = torch.arange(4, device=GPU)
            received = torch.empty_like(sent)
            dist.all_to_all_single(received, sent)
            assert torch.equal(received, sent)
            vote = distributed.Vote()
            assert not vote.cast(True)
            assert vote.cast(False)
        finally:
            dist.destroy_process_group()


def test_a_stopped_run_goes_on_from_its_checkpoint(scenes: Path, tmp_path: Path) -> None:
    """The memory is equal to the bit at the checkpoint; the losses after it to 1 %."""
    whole = experiment(scenes, tmp_path / "whole", run__device="cuda")
    halves = experiment(scenes, tmp_path / "halves", run__device="cuda")
    fit(whole, device=GPU, report=lambda _row: None)
    steps = iter(range(100))
    assert fit(halves, device=GPU, report=lambda _row: None, stop=lambda: next(steps) >= 5) is not None
    assert fit(halves, device=GPU, report=lambda _row: None) is None
    for one, other in zip(metrics(whole), metrics(halves), strict=True):
        if one["kind"] == "train":
            assert other["step"] == one["step"]
            assert other["loss"] == pytest.approx(one["loss"], rel=0.01)
