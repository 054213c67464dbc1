"""Balanced sampling, and images that stand in for those that cannot be read."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from packs import write_folder
from pixelcontrast.config import Data, Experiment, Optim, Run
from pixelcontrast.datasets.loading import Batch, train_loader
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.datasets.segmentation import build_dataset, check_data
from pixelcontrast.datasets.stream import BalancedStream
from pixelcontrast.training.batches import Batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return write_folder(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def packed(folder: Data, tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("packs") / "packed"
    pack(folder, str(root))
    return replace(folder, root=str(root))


def load(data: Data, *, start: int = 0, rank: int = 0, world_size: int = 1, steps: int = 12) -> list[Batch]:
    loader = train_loader(
        build_dataset(data, "train"),
        data,
        seed=0,
        batch_size=6,
        start_step=start,
        steps=steps,
        rank=rank,
        world_size=world_size,
    )
    return list(loader)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_classes_are_drawn_by_their_rarity() -> None:
    """The shares of DAFormer's equation, computed here in its own words."""
    pixels = np.zeros((100, 4), np.int64)
    pixels[:, 0] = 970
    pixels[:10, 1] = 200
    pixels[:2, 2] = 500
    stream = BalancedStream.of(pixels, seed=0)
    frequency = pixels.sum(axis=0)[:3] / pixels.sum()
    wanted = np.exp((1 - frequency) / 0.01)
    wanted /= wanted.sum()
    counts = Counter(stream.sample_at(position) for position in range(4000))
    rare = sum(counts[index] for index in range(10)) / 4000
    assert rare == pytest.approx(wanted[1] + wanted[2] + wanted[0] / 10, abs=0.03)
    assert counts[0] + counts[1] == pytest.approx(4000 * (wanted[2] + wanted[1] / 5), rel=0.1)


def test_balanced_sampling_shows_rare_classes_more_often(packed: Data) -> None:
    def share(data: Data) -> float:
        indices = torch.cat([batch.indices for batch in load(data)])
        return float((indices % 3 == 0).double().mean())  # the images with a sign

    assert share(packed) == pytest.approx(1 / 3, abs=0.05)
    assert share(replace(packed, balanced_sampling=True)) > 0.9


def test_balanced_sampling_does_not_depend_on_ranks_processes_or_a_resume(packed: Data) -> None:
    data = replace(packed, balanced_sampling=True, max_class_share=0.75)
    whole = load(data)
    assert_equal(load(data, start=7), whole[7:])
    assert_equal(load(replace(data, loader_processes=2)), whole)
    ranks = [load(data, rank=rank, world_size=2) for rank in range(2)]
    parts = [
        Batch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))
        for batches in zip(*ranks, strict=True)
    ]
    assert_equal(parts, whole)


def test_balanced_sampling_asks_for_a_pack_before_the_start(folder: Data) -> None:
    with pytest.raises(ValueError, match=r"data\.balanced_sampling: .* is not packed.*data pack"):
        check_data(replace(folder, balanced_sampling=True))


@pytest.fixture
def damaged(tmp_path: Path) -> Data:
    data = write_folder(tmp_path / "photos")
    path = tmp_path / "photos/masks/train/004.png"
    path.write_bytes(path.read_bytes()[:60])
    return data


@pytest.mark.parametrize("processes", [0, 2])
def test_a_bad_sample_is_replaced_alike_everywhere(damaged: Data, processes: int) -> None:
    data = replace(damaged, on_bad_sample="skip")
    check_data(data)
    whole = load(data)
    indices = torch.cat([batch.indices for batch in whole])
    assert 4 not in indices.tolist()
    sound = torch.cat([batch.indices for batch in load(write_folder(Path(data.root)))])
    assert (indices != sound).tolist() == (sound == 4).tolist()
    path = Path(data.root) / "masks/train/004.png"
    path.write_bytes(path.read_bytes()[:60])
    assert_equal(load(replace(data, loader_processes=processes), start=5), whole[5:])


@pytest.mark.parametrize("on_bad_sample", ["skip", "stop"])
def test_the_images_of_a_step_are_those_that_were_taken(
    folder: Data, damaged: Data, on_bad_sample: Literal["skip", "stop"]
) -> None:
    """As a message about the step names them, whichever rank they were on."""
    data = replace(damaged if on_bad_sample == "skip" else folder, on_bad_sample=on_bad_sample)
    train_set = build_dataset(data, "train")
    settings = Experiment(data=data, optim=Optim(steps=12, batch_size=6), run=Run(name="a"))
    batches = Batches(settings, Mock(), train_set, torch.device("cpu"))
    for step, batch in enumerate(load(data)):
        assert batches.images_of(step) == [train_set.name(index) for index in batch.indices.tolist()]


def test_a_bad_sample_stops_the_loading_with_its_file(damaged: Data) -> None:
    with pytest.raises(ValueError, match=r"masks/train/004\.png: cannot be read"):
        load(damaged)


def test_a_data_set_of_damaged_files_only_is_not_skipped(damaged: Data) -> None:
    for path in (Path(damaged.root) / "images/train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"images/train/\d+\.(png|jpg): cannot be read"):
        load(replace(damaged, on_bad_sample="skip"))


def test_a_damaged_label_in_a_pack_is_named_with_its_shard(folder: Data, tmp_path: Path) -> None:
    pack(folder, str(tmp_path / "packed"))
    data = replace(folder, root=str(tmp_path / "packed"), scale_range=(0.4, 0.4))
    label = build_dataset(data, "train").read(2)[1].numpy().tobytes()
    path = tmp_path / "packed/train/shard-00000.arrow"
    content = bytearray(path.read_bytes())
    start = content.index(label)
    content[start : start + len(label)] = bytes([77]) * len(label)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000\.arrow: images/train/002\.png: its label is damaged"):
        load(data)
