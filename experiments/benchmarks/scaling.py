"""A training step on two workers against one, and under Ray against torchrun.

    python experiments/benchmarks/scaling.py --out scaling.json       # all, some ten minutes
    python experiments/benchmarks/scaling.py --only reductions workers    # no Ray, some minutes
    python experiments/benchmarks/scaling.py --quick                  # about a minute, no targets

The step is the demo's (experiments/streets.py: hrnet_w18_small, 8 crops of 128×256, random examples from a
memory of 500 pixels and 120 regions per class), one thread for each worker. Seconds are wall time here, as
what two processes do in less time is not less work: nothing else should run beside it.

``reductions``: sums of 192 numbers over gloo processes, as BatchNorm needs them one after the other.
``workers``: the same processes, up all the time, take turns; batches are made before. ``ray``: whole
trainings take turns, started by ``launch`` in a local Ray that is up and by torchrun; a step's seconds are
those of the runs' rows, with loading, without evaluation, checkpoints and the first rows.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measure import Row, row, save, show
from team import Team, Turn
from torch.multiprocessing.spawn import start_processes

from pixelcontrast import (
    Contrast,
    Data,
    Experiment,
    Model,
    Optim,
    Run,
    Workers,
    config,
    distributed,
    training,
)
from pixelcontrast.runs.run_folder import open_storage, read_rows
from pixelcontrast.scenes import streets

_FIRST_ROWS = 2
"""Left out: the first steps allocate, and the memory is empty."""
_REPORT_INTERVAL = 5


def experiment(folder: Path) -> Experiment:
    """The demo's, on scenes that are written when they are needed."""
    return Experiment(
        data=Data(
            layout="cityscapes", root=str(folder / "scenes"), crop_size=(128, 256), scale_range=(0.5, 1.0)
        ),
        model=Model(backbone="hrnet_w18_small", embedding_dim=128),
        contrast=Contrast(
            warmup=0.0,
            memory="both",
            pixel_queue_size=500,
            region_memory_size=120,
            positive_mining="random",
            negative_mining="random",
            num_positives=256,
            num_negatives=1024,
        ),
        optim=Optim(batch_size=8, lr=1e-3, weight_decay=1e-4),
        run=Run(name="scaling", storage=str(folder / "runs"), device="cpu", report_interval=_REPORT_INTERVAL),
    )


def reductions(quick: bool) -> Iterator[Row]:
    """``distributed.sum_small`` against the group's all-reduce."""
    for world_size in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            arguments = (world_size, folder, 100 if quick else 1000)
            start_processes(_reduce, arguments, nprocs=world_size, start_method="forkserver")
            seconds = json.loads(Path(folder, "seconds.json").read_text())
        for name, value in seconds.items():
            yield row(f"{world_size} ranks: {name} of 192 numbers", 1e6 * value, "µs")
        ratio = seconds["all_reduce"] / seconds["sum_small"]
        yield row(f"{world_size} ranks: all_reduce / sum_small", ratio, "×")


def _reduce(rank: int, world_size: int, folder: str, times: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    numbers = torch.ones(192)
    forms = {"all_reduce": dist.all_reduce, "sum_small": distributed.sum_small}
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(9):
        for name, form in forms.items():
            dist.barrier()
            begin = time.perf_counter()
            for _ in range(times):
                form(numbers)
            taken[name].append((time.perf_counter() - begin) / times)
    if rank == 0:
        medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
        Path(folder, "seconds.json").write_text(json.dumps(medians))
    dist.destroy_process_group()


def workers(quick: bool) -> Iterator[Row]:
    """Two workers against one, the same global batch; and two processes that know nothing of each other."""
    variants = {"contrast": 1.0} if quick else {"contrast": 1.0, "cross-entropy": 0.0}
    for name, weight in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            settings = config.replace(experiment(Path(folder)), {"contrast.weight": weight})
            yield from _two_against_one(name, settings, Path(folder), quick)


def _two_against_one(name: str, settings: Experiment, folder: Path, quick: bool) -> Iterator[Row]:
    steps, rounds = (1, 2) if quick else (4, 9)
    context = multiprocessing.get_context("forkserver")
    alone = Team(context, settings, folder / "unused", size=2, grouped=False)
    grouped = Team(context, settings, folder / "store", size=2, grouped=True)
    alone.ready()
    grouped.ready()
    half = settings.optim.batch_size // 2
    halves = (0, half), (half, 2 * half)
    forms = {}
    for frozen in (True, False):
        two = [Turn(steps, frozen, images) for images in halves]
        kind = "frozen" if frozen else "synchronised"
        forms[f"one worker, {kind}"] = (alone, [Turn(steps, frozen, (0, 2 * half))])
        forms[f"two workers, {kind}"] = (grouped, two)
        forms[f"two apart, {kind}"] = (alone, two)
    taken = [{form: team.seconds(turns) for form, (team, turns) in forms.items()} for _ in range(rounds + 1)]
    alone.close()
    grouped.close()

    def median(form: str, index: int = 0) -> float:
        return statistics.median(turn[form][index] for turn in taken[1:])  # the first of all is a warm-up

    for form in forms:
        yield row(f"{name}: {form}", median(form), "s")
    for kind, target in (("frozen", 1.8), ("synchronised", 1.5)):
        one, both = median(f"one worker, {kind}"), median(f"two workers, {kind}")
        yield row(f"{name}: one worker / two, {kind}", one / both, "×", at_least=None if quick else target)
        apart = median(f"two apart, {kind}")
        yield row(f"{name}: one worker / two that share nothing, {kind}", one / apart, "×")
    form = "two workers, synchronised"
    yield row(f"{name}: BatchNorm's reductions in a step", median(form, 1), "")
    yield row(f"{name}: BatchNorm's reductions, share of the step", median(form, 2), "share")


def ray_against_torchrun(quick: bool) -> Iterator[Row]:
    """The step of one and of two workers; each pair of trainings begins with the other of the two."""
    from pixelcontrast.cluster.connect import connect
    from pixelcontrast.cluster.train.launch import launch

    numbers, pairs, steps = ((1,), 1, 20) if quick else ((1, 2), 3, 40)
    with tempfile.TemporaryDirectory() as folder, connect(min_cpus=2):
        base = experiment(Path(folder))
        streets.write(base.data.root, num_train=24, num_val=2, size=(128, 256), seed=0)
        starters = {"ray": lambda settings: launch(settings, on_row=_ignored), "torchrun": _torchrun}
        for number in numbers:
            taken: dict[str, list[float]] = {name: [] for name in starters}
            for pair in range(pairs):
                for name in list(starters) if pair % 2 == 0 else reversed(starters):
                    changes = {"run.name": f"{name}-{number}-{pair}", "run.workers": Workers(number)}
                    changes |= {"optim.steps": steps, "run.checkpoint_interval": steps}
                    settings = config.replace(base, changes)
                    starters[name](settings)
                    taken[name] += _step_seconds(settings)
            medians = {name: statistics.median(values) for name, values in taken.items()}
            who = f"{number} worker{'s' if number > 1 else ''}"
            for name, value in medians.items():
                yield row(f"{who}: a step under {name}", value, "s")
            ratio = medians["ray"] / medians["torchrun"]
            yield row(f"{who}: a step under ray / torchrun", ratio, "×", at_most=None if quick else 1.02)


def _ignored(_: dict[str, Any]) -> None:
    """The run's folder has it."""


def _step_seconds(settings: Experiment) -> list[float]:
    """A number per row of a finished run."""
    rows = [found for found in read_rows(open_storage(settings)) if found["kind"] == "train"]
    assert rows[-1]["step"] == settings.optim.steps
    return [settings.optim.batch_size / found["images_per_second"] for found in rows[_FIRST_ROWS:]]


def _torchrun(settings: Experiment) -> None:
    """Train in processes of ``torch.distributed.run``, on the same interface and with the same threads."""
    number = settings.run.workers.max
    file = Path(settings.run.storage).with_name("experiment.json")
    file.write_text(config.to_json(settings))
    variables = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    environment = os.environ | variables | {"GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    subprocess.run([*command, __file__, "--worker", str(file)], env=environment, check=True)


def _train(file: Path) -> None:
    """What torchrun starts."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    training.fit(config.from_json(file.read_text()), device=torch.device("cpu"), report=_ignored)
    dist.destroy_process_group()


BENCHMARKS = {"reductions": reductions, "workers": workers, "ray": ray_against_torchrun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        _train(options.worker)
        return
    rows = []
    for name in options.only:
        for line in BENCHMARKS[name](options.quick):
            show(line)
            rows.append(line)
            if options.out is not None:
                save(rows, options.out)


if __name__ == "__main__":
    main()
