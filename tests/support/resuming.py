"""Trainings in gloo processes that are killed all together, and a ledger of the samples that they took."""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config, training
from pixelcontrast.runs.run_folder import open_storage, read_attempts
from pixelcontrast.training import batches
from processes import FORKING

STEPS = 12
CHECKPOINTS = 3


def experiment(scenes: Path, storage: str) -> Experiment:
    """Twelve steps: evaluated every four, saved every three, reported every one."""
    return Experiment(
        data=Data(layout="cityscapes", root=str(scenes), crop_size=(64, 64)),
        model=Model(backbone="test_resnet", embedding_dim=16, dropout=0.1),
        contrast=Contrast(memory="both", pixel_queue_size=20, num_positives=15, num_negatives=60, warmup=0.2),
        optim=Optim(steps=STEPS, batch_size=3),
        run=Run(
            name="small",
            storage=storage,
            device="cpu",
            report_interval=1,
            eval_interval=4,
            checkpoint_interval=CHECKPOINTS,
        ),
    )


def train_ranks(
    settings: Experiment,
    world_size: int,
    *,
    until: int | None = None,
    wait: float = 0.0,
    ledger: Path | None = None,
    forget: bool = False,
) -> None:
    """One attempt at a run, in so many processes; SIGKILL to all ``wait`` seconds after step ``until``.

    Args:
        ledger: a folder in which the attempt, by its number, notes what every rank took in which step.
        forget: the memory begins empty, whatever the checkpoint has.
    """
    if ledger is not None:
        ledger = ledger / str(len(list(ledger.iterdir())) + 1)
        ledger.mkdir()
    receiver, sender = FORKING.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        places = (folder, config.to_json(settings), sender, ledger, forget)
        processes = [
            FORKING.Process(target=_train, args=(rank, world_size, *places)) for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        sender.close()
        last = 0
        try:
            while until is None or last < until:
                last = receiver.recv()
        except EOFError:  # all have ended
            assert until is None, f"ended at step {last}, before {until}"
        time.sleep(wait)
        for process in processes if until is not None else ():
            process.kill()
        for process in processes:
            process.join()
        exits = [process.exitcode for process in processes]
        # The first one killed may be noticed by another before it is killed too.
        assert exits[0] == -9 and 0 not in exits if until is not None else not any(exits), exits


def _train(
    rank: int,
    world_size: int,
    folder: str,
    text: str,
    sender: Connection,
    ledger: Path | None,
    forget: bool,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    if ledger is not None:
        batches.train_loader = _recorded(batches.train_loader, ledger)
    if forget:
        from pixelcontrast.contrast import PixelContrast

        PixelContrast.load_state_dict = lambda *_: None  # type: ignore[method-assign,assignment]
    training.fit(
        config.from_json(text),
        device=torch.device("cpu"),
        report=lambda row: sender.send(row["step"]) if rank == 0 else None,
    )
    dist.destroy_process_group()


def _recorded(train_loader: Callable[..., Any], ledger: Path) -> Callable[..., Iterator[Any]]:
    """A loader whose batches are noted, each before its step begins."""

    def load(*args: Any, start_step: int, rank: int, **options: Any) -> Iterator[Any]:
        batches = train_loader(*args, start_step=start_step, rank=rank, **options)
        with (ledger / f"{rank}.jsonl").open("w") as file:
            for step, batch in enumerate(batches, start=start_step):
                taken = list(zip(batch.positions.tolist(), batch.indices.tolist(), strict=True))
                line = {"step": step, "rank": rank, "taken": taken}
                print(json.dumps(line), file=file, flush=True)
                yield batch

    return load


def committed(settings: Experiment, ledger: Path) -> list[tuple[int, int, int]]:
    """(step, position, image), in order: of every attempt the steps that the next one went on from."""
    starts = [attempt["from_step"] for attempt in read_attempts(open_storage(settings))]
    entries = []
    for number, (start, end) in enumerate(pairwise([*starts, settings.optim.steps]), start=1):
        for path in (ledger / str(number)).iterdir():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert lines[0]["step"] == start
            entries += [
                (line["step"], line["rank"], position, image)
                for line in lines
                if line["step"] < end
                for position, image in line["taken"]
            ]
    return [(step, position, image) for step, _, position, image in sorted(entries)]


def draw_kills() -> Iterator[tuple[int, float]]:
    """Three steps, one of them between two checkpoints, with seconds to wait; TEST_SEED repeats a draw."""
    seed = int(os.environ.get("TEST_SEED", time.time_ns() % 2**31))
    print(f"TEST_SEED={seed}")
    generator = random.Random(seed)
    steps = generator.sample(range(2, STEPS - 1), 3)
    if all(step % CHECKPOINTS == 0 for step in steps):
        steps[0] += 1
    for step in sorted(steps):
        yield step, generator.uniform(0, 0.2)
