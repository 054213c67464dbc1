"""Seconds and peak memory of a training step on CamVid, in this checkout and in another one, taking turns.

    git worktree add /tmp/before 2923daa
    CAMVID_ROOT=… python experiments/benchmarks/camvid_step.py --before /tmp/before --out camvid_step.json

hrnet_w18_small in float32 unless asked otherwise, crops of 192×256, batch 8, one thread. ``in-batch`` is the
default; the other modes mine that way in both memories, full: 11 × (3,670 pixels + 367 regions). Steps are
timed in CPU seconds without loading. A step's memory is the peak of the last over what the process had before
it: weights and the optimiser's state are not in it. Each turn is a process of its own, with the package of a
checkout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from measure import Row, fix_malloc, peak_of, row, save, show

Costs = dict[str, dict[str, float]]
"""Mode → seconds and MiB of a step."""
MODES = ("cross-entropy", "in-batch", "semi-hard", "random", "all")
STEPS = 4


def main() -> None:
    """Compare the checkouts, or, as a turn, print one checkout's costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--backbone", default="hrnet_w18_small")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="with cross-entropy")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        fix_malloc()
        print(json.dumps({mode: _step_costs(mode, options) for mode in options.modes}))
        return
    checkouts = {"now": Path(__file__).parents[2]}
    if options.before is not None:
        checkouts["before"] = options.before
    turns: dict[str, list[Costs]] = {name: [] for name in checkouts}
    for _ in range(options.turns):
        for name, path in checkouts.items():
            turns[name].append(_run_turn(path, options))
    rows = [*_rows(turns, "seconds", "s"), *_rows(turns, "MiB", "MiB")]
    for line in rows:
        show(line)
    if options.out is not None:
        save(rows, options.out)


def _rows(turns: dict[str, list[Costs]], cost: str, unit: str) -> list[Row]:
    what = "" if cost == "seconds" else ": peak memory"
    rows, ratios = [], []
    for name, of in turns.items():
        taken = {mode: statistics.median(turn[mode][cost] for turn in of) for mode in of[0]}
        rows += [row(f"CamVid step, {mode}, {name}{what}", value, unit) for mode, value in taken.items()]
        for mode in [mode for mode in taken if mode != "cross-entropy"]:
            most = 1.3 if (cost, mode, name) == ("seconds", "in-batch", "now") else None
            ratio = taken[mode] / taken["cross-entropy"]
            ratios.append(row(f"CamVid step, {mode} / cross-entropy, {name}{what}", ratio, "×", at_most=most))
    return rows + ratios


def _run_turn(checkout: Path, options: argparse.Namespace) -> Costs:
    environment = os.environ | {"PYTHONPATH": str(checkout / "platform"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--turn", "--backbone", options.backbone]
    command += ["--precision", options.precision, "--modes", *options.modes]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _step_costs(mode: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of the steps after the first, and the last one's peak memory."""
    import torch

    from pixelcontrast import Data, Experiment, Model, Optim, Run, replace
    from pixelcontrast.datasets.loading import train_loader
    from pixelcontrast.datasets.segmentation import build_dataset
    from pixelcontrast.training.state import build_state
    from pixelcontrast.training.step import autocast_dtype, train_step

    torch.set_num_threads(1)
    experiment = Experiment(
        data=Data(layout="camvid", root=os.environ["CAMVID_ROOT"], crop_size=(192, 256)),
        model=Model(backbone=options.backbone),
        optim=Optim(batch_size=8, lr=1e-3),
        run=Run(name="timed", precision=options.precision),
    )
    keys = ["contrast.positive_mining", "contrast.negative_mining"]
    changes: dict[str, Any] = {"contrast.memory": "none"}
    if mode == "cross-entropy":
        changes["contrast.weight"] = 0.0
    elif mode != "in-batch":
        changes = {"contrast.memory": "both"} | dict.fromkeys(keys, mode)
    train_set = build_dataset(experiment.data, "train")
    size = {"num_classes": train_set.labels.num_classes, "num_images": len(train_set)}
    state = build_state(replace(experiment, changes), **size, device=torch.device("cpu"))
    if state.contrast is not None:
        _fill(state.contrast.memory, size["num_classes"])
    taken, peak = [], 0
    stream: dict[str, Any] = {"seed": 0, "batch_size": 8, "start_step": 0, "steps": STEPS + 1}
    for batch in train_loader(train_set, experiment.data, **stream, rank=0, world_size=1):
        parts = (state.model, state.contrast, state.optimizer, batch)
        step = partial(train_step, *parts, contrast_weight=1.0, autocast=autocast_dtype(experiment.run))
        if len(taken) == STEPS:
            peak = peak_of(step)
            break
        begin = time.process_time()
        step()
        taken.append(time.process_time() - begin)
    return {"seconds": statistics.median(taken[1:]), "MiB": peak / 2**20}


def _fill(memory: Any, num_classes: int) -> None:
    """Random unit vectors into every slot."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    for bank in memory.banks.values():
        labels = torch.arange(num_classes).repeat_interleave(bank.size)
        rows = F.normalize(torch.randn(len(labels), bank.rows.shape[2], generator=generator), dim=1)
        images = torch.arange(bank.size).repeat(num_classes)
        if hasattr(bank, "write"):
            bank.write(rows, labels, images, step=0)
        elif bank is memory.pixel:  # a checkout before b7975a5
            bank.enqueue(rows, labels, step=0)
        else:
            bank.store(rows, labels, images, step=0)


if __name__ == "__main__":
    main()
