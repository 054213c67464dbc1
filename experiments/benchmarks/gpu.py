"""What the contrast costs on a GPU: against its own products, and in a training step of HRNet-W48.

    python experiments/benchmarks/gpu.py --out gpu.json

The step is that of two images of 512×1024 in bfloat16, with cross-entropy alone and with the contrast, in the
batch and with a memory, one after the other. The profile counts what the term's forward pass launches and how
often the host waits for it. ``make gpu-check`` runs this after the tests that need a GPU. Not measured yet.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from contrast import bank_loss, mining
from inputs import NUM_CLASSES, embedding_maps, label_maps, logit_maps
from measure import Form, Row, command, row, seconds

from pixelcontrast.config import Model, Optim
from pixelcontrast.contrast import MemoryConfig, PixelContrast
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import build_model
from pixelcontrast.training.optim import build_optimizer
from pixelcontrast.training.step import train_step

_DIM, _IMAGES = 256, 2
_FORMS: dict[str, MemoryConfig | None] = {
    "cross-entropy": None,
    "in-batch": MemoryConfig(),
    "memory": MemoryConfig(memory="pixel", pixel_queue_size=5_000),
}
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def measured(quick: bool) -> Iterator[Row]:
    """Nothing without a GPU, which is said."""
    if not torch.cuda.is_available():
        print("CUDA: none here")
        return
    yield from bank_loss(quick, "cuda")
    yield from mining(quick, "cuda")
    yield from training_step(quick)
    yield from profile()


def training_step(quick: bool) -> Iterator[Row]:
    """Seconds, images per second, peak memory, and the contrast's share of a step."""
    height, width = (128, 256) if quick else (512, 1024)
    taken: dict[str, float] = {}
    for name, memory in _FORMS.items():  # not in turn: the peak is that of one network alone
        form = None
        torch.cuda.empty_cache()
        form = _step_form(memory, height, width)
        for _ in range(3):
            form()
        torch.cuda.reset_peak_memory_stats()
        taken |= seconds({name: form}, rounds=3 if quick else 20, device="cuda")
        where = f"HRNet-W48 step, {_IMAGES}×{height}×{width}, bfloat16, {name}"
        yield row(where, taken[name], "s", device="cuda")
        yield row(f"{where}: images per second", _IMAGES / taken[name], "1/s", device="cuda")
        peak = torch.cuda.max_memory_allocated()
        yield row(f"{where}: peak memory", peak / 2**20, "MiB", device="cuda")
    for name in ("in-batch", "memory"):
        ratio = taken[name] / taken["cross-entropy"]
        yield row(f"HRNet-W48 step: {name} / cross-entropy", ratio, "×", at_most=1.1, device="cuda")


def _step_form(memory: MemoryConfig | None, height: int, width: int) -> Form:
    torch.manual_seed(0)
    settings = Model(backbone="hrnet_w48")
    model = build_model(settings, num_classes=NUM_CLASSES, embedding=memory is not None).cuda()
    contrast = None if memory is None else _contrast(memory)
    labels = label_maps(_IMAGES, height, width, block=16)
    images, order = torch.randn(_IMAGES, 3, height, width), torch.arange(_IMAGES)
    batch = Batch(*(tensor.cuda() for tensor in (images, labels, order, order)))
    optimizer = build_optimizer(model, Optim(lr=1e-4))
    return partial(
        train_step, model, contrast, optimizer, batch, contrast_weight=1.0, autocast=torch.bfloat16
    )


def _contrast(memory: MemoryConfig) -> PixelContrast:
    return PixelContrast(num_classes=NUM_CLASSES, embedding_dim=_DIM, memory=memory).cuda()


def profile() -> Iterator[Row]:
    """Launches and waits of the term's forward pass, with and without a memory, in its third step."""
    labels = label_maps(_IMAGES, 128, 256, block=8)
    logits, maps = logit_maps(labels), embedding_maps(labels)
    moved = [tensor.detach().cuda() for tensor in (maps, labels, logits)]
    for name in ("in-batch", "memory"):
        memory = _FORMS[name]
        assert memory is not None
        contrast = _contrast(memory)
        for _ in range(2):
            contrast(*moved)
        torch.cuda.synchronize()
        with torch.profiler.profile() as seen:
            contrast(*moved)
        found = launches_and_waits({event.key: event.count for event in seen.key_averages()})
        where = f"the term's forward, {name}"
        if found is None:
            print(f"{where}: the profiler saw no kernels (no CUPTI?), so launches and waits are not counted")
            continue
        launches, waits = found
        yield row(f"{where}: kernels launched", launches, "", device="cuda")
        yield row(f"{where}: waits of the host", waits, "", at_most=3, device="cuda")


def launches_and_waits(count: Mapping[str, int]) -> tuple[int, int] | None:
    """Kernels launched and waits of the host, from the profile's events; None where nothing was recorded."""
    launches = sum(number for key, number in count.items() if "LaunchKernel" in key)
    waits = sum(count.get(key, 0) for key in _WAITS)
    return (launches, waits - 1) if launches else None  # the profile ends with a wait of its own


if __name__ == "__main__":
    command(__doc__, measured)
