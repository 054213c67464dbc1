"""Training on W workers is training on one: the whole network, through the real step, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from contrasts import in_float64
from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, distributed
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.training.optim import parameters, set_rate
from pixelcontrast.training.state import TrainState, build_state
from pixelcontrast.training.step import Losses, train_step
from processes import run_ranks

CLASSES, BATCH, FREE_STEPS, STEPS = 5, 5, 4, 6
EXPERIMENT = Experiment(
    data=Data(layout="camvid", root="unused"),
    model=Model(backbone="hrnet_w18_small", embedding_dim=16),
    contrast=Contrast(
        memory="both", pixel_queue_size=40, anchors_per_class=8, num_positives=10, num_negatives=30
    ),
    optim=Optim(steps=STEPS, batch_size=BATCH, clip_norm=5.0),
    run=Run(name="parity"),
)


def build() -> TrainState:
    state = build_state(EXPERIMENT, num_classes=CLASSES, num_images=100, device=torch.device("cpu"))
    state.model.double()
    assert state.contrast is not None
    in_float64(state.contrast)
    return state


def global_batch(step: int) -> Batch:
    """Blocks of classes, with an image that is almost void and one that is wholly so."""
    generator = torch.Generator().manual_seed(step)
    coarse = torch.randint(CLASSES, (BATCH, 6, 8), generator=generator)
    labels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[1, :, 4:] = 255
    labels[4] = 255
    images = torch.randn(BATCH, 3, 48, 64, generator=generator, dtype=torch.float64)
    positions = torch.arange(BATCH) + step * BATCH
    return Batch(images + labels[:, None] / CLASSES, labels, positions, positions)


def one_step(
    state: TrainState, network: torch.nn.Module, step: int, rank: int, world_size: int
) -> dict[str, Any]:
    mine = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    set_rate(state.optimizer, step, EXPERIMENT.optim)
    losses: Losses = train_step(
        network,
        state.contrast,
        state.optimizer,
        Batch(*(tensor[mine] for tensor in global_batch(step))),
        contrast_weight=1.0,
        clip_norm=EXPERIMENT.optim.clip_norm,
    )
    assert losses.contrast is not None
    means = distributed.all_reduce(torch.stack([losses.ce, losses.contrast])) / world_size
    assert state.contrast is not None
    return {
        "losses": means,
        "gradients": [p.grad.clone() for p in parameters(state.optimizer) if p.grad is not None],
        "statistics": [b.clone() for b in state.model.buffers()],
        "memory": {name: b.clone() for name, b in state.contrast.state_dict().items()},
    }


def run(rank: int, world_size: int, recorded: str) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Losses of free-running steps, and the outcome of single steps from the recorded states."""
    state = build()
    network = (
        state.model if world_size == 1 else DistributedDataParallel(state.model, forward_sync_buffers=False)
    )
    free = [one_step(state, network, step, rank, world_size)["losses"] for step in range(FREE_STEPS)]
    outcomes = []
    for step in range(STEPS):
        start = torch.load(Path(recorded) / f"{step}.pt")
        state.model.load_state_dict(start["model"])
        assert state.contrast is not None
        state.contrast.load_state_dict(start["contrast"])
        outcomes.append(one_step(state, network, step, rank, world_size))
    return free, outcomes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The states before each step of a run in one process, and what the steps did."""
    folder, state, outcomes = tmp_path_factory.mktemp("states"), build(), []
    for step in range(STEPS):
        assert state.contrast is not None
        start = {"model": state.model.state_dict(), "contrast": state.contrast.state_dict()}
        torch.save(start, folder / f"{step}.pt")
        outcomes.append(one_step(state, state.model, step, 0, 1))
    return folder, outcomes


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_agree(world_size: int, recorded: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, expected = recorded
    assert all(outcome["losses"].min() > 0 for outcome in expected)
    ranks = [run(0, 1, str(folder))] if world_size == 1 else run_ranks(world_size, run, str(folder))
    for free, outcomes in ranks:
        for losses, one in zip(free, expected[:FREE_STEPS], strict=True):
            torch.testing.assert_close(losses, one["losses"], rtol=0, atol=1e-8)
        for outcome, one in zip(outcomes, expected, strict=True):
            torch.testing.assert_close(outcome, one, rtol=0, atol=1e-9)
