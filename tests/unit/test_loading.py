"""The sample stream and the loaders: the same samples for any number of ranks and loader processes."""

import multiprocessing
import os
import signal
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from pixelcontrast.config import Data
from pixelcontrast.datasets.loading import Batch, eval_loader, train_loader
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset
from pixelcontrast.datasets.stream import SampleStream

NUM_IMAGES = 7
BATCH_SIZE = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A CamVid tree of 7 training and 5 validation images of different sizes."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for split, count in (("train", NUM_IMAGES), ("val", 5)):
        (root / split).mkdir()
        (root / f"{split}annot").mkdir()
        for number in range(count):
            size = (24 + number, 40 + 2 * number)
            image, label = rng.integers(0, 256, (*size, 3)), rng.integers(0, 12, size)
            Image.fromarray(image.astype(np.uint8)).save(root / split / f"{number}.png")
            Image.fromarray(label.astype(np.uint8)).save(root / f"{split}annot" / f"{number}.png")
    return Data(layout="camvid", root=str(root), crop_size=(16, 24))


@pytest.fixture(scope="module")
def train(data: Data) -> SegmentationSet:
    return build_dataset(data, "train")


@pytest.fixture(scope="module")
def whole_run(data: Data, train: SegmentationSet) -> list[Batch]:
    return load(train, data)


def load(
    train: SegmentationSet, data: Data, *, seed: int = 0, start: int = 0, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    """The batches of the 6 steps of a run."""
    return list(
        train_loader(
            train,
            data,
            seed=seed,
            batch_size=BATCH_SIZE,
            start_step=start,
            steps=6,
            rank=rank,
            world_size=world_size,
        )
    )


def with_processes(data: Data, count: int) -> Data:
    values = {name: getattr(data, name) for name in ("layout", "root", "crop_size")}
    return Data(**values, loader_processes=count)


def assert_equal(one: Batch, other: Batch) -> None:
    for field, a, b in zip(Batch._fields, one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), field


def test_every_epoch_is_another_permutation() -> None:
    stream = SampleStream(50, seed=3)
    epochs = [[stream.sample_at(epoch * 50 + place) for place in range(50)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert all(one != other for one, other in pairwise(epochs))
    assert epochs[0] != list(range(50))
    assert [SampleStream(50, seed=4).sample_at(place) for place in range(50)] != epochs[0]
    # Asked for again after other epochs, and from the back, it is the same.
    assert [stream.sample_at(place) for place in reversed(range(50))] == epochs[0][::-1]


def test_a_permutation_is_not_made_per_item(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelcontrast.datasets import stream

    calls = []

    def counted(*arguments: int) -> torch.Tensor:
        calls.append(arguments)
        return torch.arange(arguments[0])

    monkeypatch.setattr(stream, "permutation", counted)
    stream._epoch_order.cache_clear()
    # Two loader processes' worth of look-ahead over the end of an epoch.
    for position in range(90, 110):
        SampleStream(100, 0).sample_at(position)
        SampleStream(100, 0).sample_at(position + 8)
    stream._epoch_order.cache_clear()
    assert len(calls) == 2


def test_a_run_takes_the_stream_in_order(whole_run: list[Batch]) -> None:
    assert len(whole_run) == 6
    positions = torch.cat([batch.positions for batch in whole_run])
    indices = torch.cat([batch.indices for batch in whole_run])
    stream = SampleStream(NUM_IMAGES, seed=0)
    assert positions.tolist() == list(range(6 * BATCH_SIZE))
    assert indices.tolist() == [stream.sample_at(position) for position in range(6 * BATCH_SIZE)]
    assert sorted(indices[:NUM_IMAGES].tolist()) == list(range(NUM_IMAGES))
    batch = whole_run[0]
    assert batch.images.shape == (BATCH_SIZE, 3, 16, 24)
    assert batch.labels.shape == (BATCH_SIZE, 16, 24)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == batch.positions.dtype == batch.indices.dtype == torch.int64


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_the_ranks_slices_in_order_are_the_global_batch(
    data: Data, train: SegmentationSet, whole_run: list[Batch], world_size: int
) -> None:
    ranks = [load(train, data, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, wanted in enumerate(whole_run):
        parts = [batches[step] for batches in ranks]
        assert all(len(part.positions) >= 1 for part in parts)
        assert_equal(Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), wanted)


def test_resuming_at_a_step_goes_on_with_the_same_tensors(
    data: Data, train: SegmentationSet, whole_run: list[Batch]
) -> None:
    resumed = load(train, data, start=4)
    assert len(resumed) == 2
    for one, other in zip(resumed, whole_run[4:], strict=True):
        assert_equal(one, other)
    assert load(train, data, start=6) == []


def test_another_seed_is_another_run(data: Data, train: SegmentationSet, whole_run: list[Batch]) -> None:
    other = load(train, data, seed=1)
    assert [batch.indices.tolist() for batch in other] != [batch.indices.tolist() for batch in whole_run]


def test_an_image_is_augmented_anew_in_every_epoch(whole_run: list[Batch]) -> None:
    indices = torch.cat([batch.indices for batch in whole_run])
    crops = torch.cat([batch.images for batch in whole_run])[indices == 2]
    assert len(crops) >= 4
    assert len({crop.numpy().tobytes() for crop in crops}) == len(crops)


def test_loader_processes_change_nothing(data: Data, train: SegmentationSet, whole_run: list[Batch]) -> None:
    loaded = load(train, with_processes(data, 2), start=1)
    for one, other in zip(loaded, whole_run[1:], strict=True):
        assert_equal(one, other)


def test_loading_leaves_torchs_generator_alone(data: Data, train: SegmentationSet) -> None:
    state = torch.get_rng_state()
    load(train, data)
    list(eval_loader(train, rank=0, world_size=1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_damaged_file_is_named(data: Data, tmp_path: Path, processes: int) -> None:
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        for path in (Path(data.root) / folder).iterdir():
            (tmp_path / folder / path.name).write_bytes(
                path.read_bytes()[: 150 if path.name == "4.png" else None]
            )
    damaged = Data(layout="camvid", root=str(tmp_path), crop_size=(16, 24), loader_processes=processes)
    with pytest.raises(ValueError, match=r"train/4\.png: cannot be read"):
        load(build_dataset(damaged, "train"), damaged)


def iterate_and_be_killed(data: Data, pids: Path) -> None:
    batches = iter(eval_loader(build_dataset(data, "train"), rank=0, world_size=1, loader_processes=2))
    next(batches)
    pids.write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_no_loader_processes(data: Data, tmp_path: Path) -> None:
    """torch alone leaves them: the parent it watches is the fork server, which lives as long as they do."""
    context = multiprocessing.get_context("forkserver")
    killed = context.Process(target=iterate_and_be_killed, args=(data, tmp_path / "pids"))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("world_size", [1, 2, 3, pytest.param(7, marks=pytest.mark.slow)])
def test_evaluation_sees_every_image_once(data: Data, world_size: int) -> None:
    val = build_dataset(data, "val")
    loaders = [eval_loader(val, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [batch for loader in loaders for batch in loader]
    assert [batch.indices.tolist() for batch in batches] == [[index] for index in range(len(val))]
    for index, batch in enumerate(batches):
        label = val.read(index)[1]
        assert torch.equal(batch.labels, label[None].long())
        assert batch.images.shape == (1, 3, *label.shape)


def test_evaluation_with_loader_processes_is_the_same(data: Data) -> None:
    val = build_dataset(data, "val")
    here = list(eval_loader(val, rank=0, world_size=1))
    there = list(eval_loader(val, rank=0, world_size=1, loader_processes=2))
    assert len(here) == len(there) == len(val)
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_real_camvid_is_loaded_alike_by_two_ranks_with_processes() -> None:
    values = {"layout": "camvid", "root": os.environ["CAMVID_ROOT"], "crop_size": (192, 256)}
    plain, parallel = Data(**values), Data(**values, loader_processes=1)
    dataset = build_dataset(plain, "train")

    def two_steps(data: Data, rank: int, world_size: int) -> list[Batch]:
        loader = partial(train_loader, dataset, data, seed=5, batch_size=5, start_step=100, steps=102)
        return list(loader(rank=rank, world_size=world_size))

    wanted = two_steps(plain, 0, 1)
    first, second = two_steps(parallel, 0, 2), two_steps(plain, 1, 2)
    for whole, *parts in zip(wanted, first, second, strict=True):
        assert_equal(Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), whole)
