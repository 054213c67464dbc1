"""The contrast in several gloo processes on one machine: CPU seconds and bytes handed to collectives."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from costs import Sizes, payload
from inputs import DIM, IGNORE_INDEX, NUM_CLASSES, embedding_maps, fill, label_maps, logit_maps
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from pixelcontrast.contrast import AnchorConfig, MemoryConfig, MiningConfig, PixelContrast, sampling

_PAYLOAD = {
    "all_reduce": 0,
    "broadcast": 0,
    "all_gather": 1,
    "all_gather_into_tensor": 1,
    "reduce_scatter_tensor": 1,
    "all_to_all": 1,
    "all_to_all_single": 1,
}
"""Which argument of a collective is what the rank sends."""
_PER_CLASS, _PER_IMAGE = 50, 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A global batch and a bank, split over the ranks."""

    sharded: bool
    bank_rows: int
    images: int = 4
    map_size: tuple[int, int] = (64, 128)
    steps: int = 3


@dataclass(frozen=True)
class Measured:
    """What one rank measures."""

    seconds: float
    """CPU time of a step, the median of some."""
    sent: int
    """Bytes handed to collectives in a step."""
    formula: int
    """What costs.py says of them."""


def measure(world_size: int, setting: Setting) -> list[Measured]:
    """Every rank's figures; each rank is a process with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_run, (world_size, folder, setting), nprocs=world_size, start_method="forkserver")
        results = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world_size)]
    return [Measured(*result) for result in results]


def _run(rank: int, world_size: int, folder: str, setting: Setting) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        torch.save(_measure(rank, world_size, setting), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def _measure(rank: int, world_size: int, setting: Setting) -> tuple[float, int, int]:
    contrast = PixelContrast(
        num_classes=NUM_CLASSES,
        embedding_dim=DIM,
        anchors=AnchorConfig(anchors_per_class=_PER_CLASS),
        memory=MemoryConfig(
            memory="pixel",
            pixel_queue_size=setting.bank_rows // NUM_CLASSES,
            pixels_per_image=_PER_IMAGE,
            memory_sharded=setting.sharded,
        ),
        mining=MiningConfig(positive_mining="all", negative_mining="all"),
    )
    assert contrast.memory.pixel is not None
    fill(contrast.memory.pixel)
    few = setting.images // world_size
    mine = slice(rank * few, (rank + 1) * few)
    labels = label_maps(setting.images, *setting.map_size, block=4)
    logits = logit_maps(labels)[mine]
    labels, positions = labels[mine], torch.arange(setting.images)[mine]
    maps = embedding_maps(labels)

    formula = payload(_sizes(world_size, setting, labels, logits, positions))
    taken = []
    with _counted() as sent:
        for _ in range(setting.steps):
            dist.barrier()
            begin = time.process_time()
            contrast(maps, labels, logits, positions=positions).backward()
            taken.append(time.process_time() - begin)
    return statistics.median(taken), sum(sent) // setting.steps, formula


def _sizes(world_size: int, setting: Setting, labels: Tensor, logits: Tensor, positions: Tensor) -> Sizes:
    """What was drawn, counted apart from the term itself."""
    classes, _ = sampling.classes_of_pixels(labels, NUM_CLASSES, IGNORE_INDEX)
    wrong = logits.argmax(dim=1) != labels
    keys = sampling.pixel_keys(labels.shape, positions, 0, sampling.HARD, sampling.ANY)
    chosen, _ = sampling.choose_anchors(
        sampling.Pixels(classes.flatten(), wrong.flatten(), keys[0], keys[1]),
        budgets=sampling.equal_budgets(_PER_CLASS, 0.5),
        num_classes=NUM_CLASSES,
        note=torch.zeros(1, dtype=torch.int64),
        group=None,
    )
    anchors = chosen.anchors(chosen.look(None).tolist(), wrong, None)
    pixels = torch.stack([torch.bincount(image.flatten(), minlength=256)[:NUM_CLASSES] for image in labels])
    entries = pixels.clamp(max=_PER_IMAGE).sum()
    most_entries = entries.clone()
    dist.all_reduce(most_entries, dist.ReduceOp.MAX)
    return Sizes(
        ranks=world_size,
        anchors=len(anchors.labels),
        bank=setting.bank_rows,
        dim=DIM,
        most_anchors=max(anchors.counts),
        entries=int(entries),
        most_entries=int(most_entries),
        proposals=NUM_CLASSES * _PER_CLASS * 3 // 2,
        sharded=setting.sharded,
    )


@contextmanager
def _counted() -> Iterator[list[int]]:
    """The bytes of every collective's payload, while the context lasts."""
    sent: list[int] = []
    originals = {name: getattr(dist, name) for name in _PAYLOAD}
    for name, original in originals.items():
        setattr(dist, name, _counting(original, _PAYLOAD[name], sent))
    try:
        yield sent
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def _counting(original: Callable[..., Any], argument: int, sent: list[int]) -> Callable[..., Any]:
    def collective(*args: Any, **kwargs: Any) -> Any:
        given = args[argument]
        tensors = [given] if isinstance(given, Tensor) else given
        sent.append(sum(tensor.nbytes for tensor in tensors))
        return original(*args, **kwargs)

    return collective
