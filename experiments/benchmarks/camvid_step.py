"""CPU seconds of a training step on CamVid, in this checkout and in another one, taking turns.

    git worktree add /tmp/before 2923daa
    CAMVID_ROOT=… python experiments/benchmarks/camvid_step.py --before /tmp/before --out camvid_step.json

hrnet_w18_small in float32 unless asked otherwise, crops of 192×256, batch 8, one thread. ``in-batch`` is the
default; the other modes mine that way in both memories, full: 11 × (3,670 pixels + 367 regions). Steps are
timed without loading. Each turn is a process of its own, with the package of a checkout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import Row, row, save, show

MODES = ("cross-entropy", "in-batch", "semi-hard", "random", "all")
STEPS = 4


def main() -> None:
    """Compare the checkouts, or, as a turn, print one checkout's seconds."""
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
        print(json.dumps({mode: _step_seconds(mode, options) for mode in options.modes}))
        return
    checkouts = {"now": Path(__file__).parents[2]}
    if options.before is not None:
        checkouts["before"] = options.before
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(options.turns):
        for name, path in checkouts.items():
            turns[name].append(_run_turn(path, options))
    modes = options.modes
    rows = _rows(
        {name: {m: statistics.median(t[m] for t in of) for m in modes} for name, of in turns.items()}
    )
    for line in rows:
        show(line)
    if options.out is not None:
        save(rows, options.out)


def _rows(seconds: dict[str, dict[str, float]]) -> list[Row]:
    rows = [
        row(f"CamVid step, {mode}, {name}", value, "s")
        for name, modes in seconds.items()
        for mode, value in modes.items()
    ]
    for name, modes in seconds.items():
        ratios = {mode: value / modes["cross-entropy"] for mode, value in modes.items()}
        for mode in [mode for mode in modes if mode != "cross-entropy"]:
            most = 1.3 if (mode, name) == ("in-batch", "now") else None
            rows.append(row(f"CamVid step, {mode} / cross-entropy, {name}", ratios[mode], "×", at_most=most))
    return rows


def _run_turn(checkout: Path, options: argparse.Namespace) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(checkout / "platform"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--turn", "--backbone", options.backbone]
    command += ["--precision", options.precision, "--modes", *options.modes]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _step_seconds(mode: str, options: argparse.Namespace) -> float:
    """Median of the steps after the first."""
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
    taken = []
    stream: dict[str, Any] = {"seed": 0, "batch_size": 8, "start_step": 0, "steps": STEPS + 1}
    for batch in train_loader(train_set, experiment.data, **stream, rank=0, world_size=1):
        begin = time.process_time()
        parts = (state.model, state.contrast, state.optimizer, batch)
        train_step(*parts, contrast_weight=1.0, autocast=autocast_dtype(experiment.run))
        taken.append(time.process_time() - begin)
    return statistics.median(taken[1:])


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
