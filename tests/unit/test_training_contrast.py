"""The contrastive term as an experiment asks for it."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pixelcontrast import Contrast, Data, Experiment, Model, Run, distributed, replace
from pixelcontrast.config import check_memory
from pixelcontrast.contrast import AnchorConfig, LossConfig, MemoryConfig
from pixelcontrast.contrast.banks import WHOLE, Queue, Slots, reshard
from pixelcontrast.contrast.mining import Miner
from pixelcontrast.runs import checkpoint
from pixelcontrast.storage import Storage
from pixelcontrast.training import checkpointing, memory_bytes
from pixelcontrast.training.contrast import build_contrast
from pixelcontrast.training.state import TrainState, build_state
from processes import run_ranks

EXPERIMENT = Experiment(
    data=Data(layout="cityscapes", root="unused"),
    model=Model(embedding_dim=8),
    contrast=Contrast(memory="both"),
    run=Run(name="x"),
)


def test_default_sizes_are_the_paper_s_up_to_a_cap() -> None:
    small = build_contrast(EXPERIMENT, num_classes=19, num_images=30)
    assert small is not None
    assert isinstance(small.memory.pixel, Queue)
    assert isinstance(small.memory.region, Slots)
    assert (small.memory.pixel.size, small.memory.region.size) == (300, 30)
    large = build_contrast(EXPERIMENT, num_classes=171, num_images=118_000)
    assert large is not None
    assert large.memory.pixel is not None
    assert isinstance(large.memory.region, Queue), "no slot for every image any more"
    assert large.memory.pixel.size == large.memory.region.size == 200_000 // 171


@pytest.mark.parametrize(
    ("memory", "banks"),
    [("none", []), ("pixel", ["pixel"]), ("region", ["region"]), ("both", ["pixel", "region"])],
)
def test_memory_has_the_banks_asked_for(memory: str, banks: list[str]) -> None:
    changed = replace(EXPERIMENT, {"contrast.memory": memory, "contrast.memory_dtype": "bfloat16"})
    contrast = build_contrast(changed, num_classes=3, num_images=5)
    assert contrast is not None
    assert list(contrast.memory.banks) == banks
    assert all(bank.rows.dtype == torch.bfloat16 for bank in contrast.memory.banks.values())


def test_memory_bytes_are_those_of_the_buffers(scenes: Path) -> None:
    experiment = replace(EXPERIMENT, {"data.root": str(scenes), "contrast.pixel_queue_size": 7})
    num_images = len(list(scenes.glob("leftImg8bit/train/*/*.png")))
    rows = 19 * (7 + num_images)
    assert memory_bytes(experiment) == (
        rows * (8 * 4 + 8) + 19 * 8 + 19 * num_images * 8  # embeddings, steps of writing; pointers; slots
    )
    smaller = replace(experiment, {"contrast.memory_dtype": "bfloat16", "contrast.memory": "region"})
    assert memory_bytes(smaller) == 19 * num_images * (8 * 2 + 8 + 8)
    assert memory_bytes(replace(experiment, {"contrast.weight": 0.0})) == 0
    shared = replace(experiment, {"contrast.memory_sharded": True, "run.workers": "2:4"})
    assert memory_bytes(shared) == memory_bytes(experiment) - rows * 8 * 4 // 2


SHARED = replace(EXPERIMENT, {"contrast.memory_sharded": True, "model.backbone": "test_resnet"})


def shared_state() -> TrainState:
    return build_state(SHARED, num_classes=3, num_images=5, device=torch.device("cpu"))


def save_shares(rank: int, world_size: int, folder: str) -> dict[str, torch.Tensor]:
    """Fill a memory, write a checkpoint; the whole memory."""
    state = shared_state()
    assert state.contrast is not None
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + rank)
        embeddings = F.normalize(torch.randn(1, 8, 6, 6, generator=generator), dim=1)
        labels = torch.randint(3, (1, 6, 6), generator=generator)
        ids = torch.tensor([(step + rank) % 5])
        state.contrast(embeddings, labels, torch.zeros(1, 3, 6, 6), image_ids=ids)
        state.contrast.keep()
    parts = state.to_parts()
    assert f"memory-{rank}-of-{world_size}.safetensors" in parts
    assert ("model.safetensors" in parts) == (rank == 0)
    checkpointing.save(Storage(folder), 3, parts)
    return reshard(distributed.gather_objects(state.contrast.state_dict()), WHOLE)


def load_shares(_rank: int, _world_size: int, folder: str) -> dict[str, torch.Tensor]:
    state = shared_state()
    state.restore(checkpoint.load(Storage(folder), checkpoint.folder_of(3)))
    assert state.contrast is not None
    return reshard(distributed.gather_objects(state.contrast.state_dict()), WHOLE)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_memory_shared_by_two_goes_on_with_any_number(world_size: int, tmp_path: Path) -> None:
    saved = run_ranks(2, save_shares, str(tmp_path))[0]
    assert int((saved["memory.pixel.written"] >= 0).sum()) > 50
    for loaded in run_ranks(world_size, load_shares, str(tmp_path)):
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.items())


def test_too_large_a_memory_is_refused_with_both_sizes_and_the_keys() -> None:
    check_memory(25, 100, "this machine")
    with pytest.raises(ValueError, match=r"3 GB .* 25% of cuda:0's memory, 8 GB.*contrast.memory_dtype"):
        check_memory(3_000_000_000, 8e9, "cuda:0's memory")


def test_a_worker_with_a_part_of_a_gpu_has_a_part_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    contrast = build_contrast(EXPERIMENT, num_classes=5, num_images=10)
    assert contrast is not None
    gpu = SimpleNamespace(total_memory=8 * contrast.memory.nbytes)  # enough for a worker alone, not for four
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    shared = replace(EXPERIMENT, {"run.gpus_per_worker": 0.25})
    with pytest.raises(
        ValueError, match=r"contrast\.memory: .* 25% of this worker's part of cuda:0's memory"
    ):
        build_state(shared, num_classes=5, num_images=10, device=torch.device("cuda", 0))


def test_every_setting_reaches_the_term() -> None:
    settings = Contrast(
        memory="both",
        temperature=0.2,
        anchors_per_class=3,
        hard_share=0.25,
        rare_class_power=0.5,
        pixels_per_image=4,
        boundary_share=0.6,
        positive_mining="random",
        negative_mining="hardest",
        num_positives=5,
        num_negatives=6,
        semi_hard_share=0.3,
        memory_term="joint",
        memory_weight=0.6,
        memory_max_age=7,
    )
    changed = replace(EXPERIMENT, {f"contrast.{k}": v for k, v in vars(settings).items() if k != "weight"})
    term = build_contrast(changed, num_classes=3, num_images=5)
    assert term is not None
    for part, kind in (
        (term.loss, LossConfig),
        (term.anchors, AnchorConfig),
        (term.memory_config, MemoryConfig),
    ):
        for field in fields(kind):
            assert getattr(part, field.name) == getattr(settings, field.name)
    assert term.positive_miner == Miner("random", 5, 0.3)
    assert term.negative_miner == Miner("hardest", 6, 0.3)
    assert [bank.max_age for bank in term.memory.banks.values() if isinstance(bank, Queue)] == [7, 7]
