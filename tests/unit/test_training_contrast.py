"""The contrastive term as an experiment asks for it."""

from pathlib import Path

import pytest
import torch

from pixelcontrast import Contrast, Data, Experiment, Model, Run, replace
from pixelcontrast.contrast.memory import Queue, Slots
from pixelcontrast.contrast.mining import Miner
from pixelcontrast.training import memory_bytes
from pixelcontrast.training.contrast import build_contrast, check_memory

EXPERIMENT = Experiment(
    data=Data(layout="cityscapes", root="unused"), model=Model(embedding_dim=8), run=Run(name="x")
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


def test_too_large_a_memory_is_refused_with_both_sizes_and_the_keys() -> None:
    check_memory(25, 100, "this machine")
    with pytest.raises(ValueError, match=r"3 GB .* 25% of cuda:0's memory, 8 GB.*contrast.memory_dtype"):
        check_memory(3_000_000_000, 8e9, "cuda:0's memory")


def test_every_setting_reaches_the_term() -> None:
    settings = Contrast(
        temperature=0.2,
        anchors_per_class=3,
        hard_share=0.25,
        rare_class_power=0.5,
        pixels_per_image=4,
        positive_mining="random",
        negative_mining="hardest",
        num_positives=5,
        num_negatives=6,
        semi_hard_share=0.3,
    )
    changed = replace(EXPERIMENT, {f"contrast.{k}": v for k, v in vars(settings).items() if k != "weight"})
    term = build_contrast(changed, num_classes=3, num_images=5)
    assert term is not None
    for name in ("temperature", "anchors_per_class", "hard_share", "rare_class_power", "pixels_per_image"):
        assert getattr(term, name) == getattr(settings, name)
    assert term.positive_miner == Miner("random", 5, 0.3)
    assert term.negative_miner == Miner("hardest", 6, 0.3)
