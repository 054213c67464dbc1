"""A finished run's folder, written in a moment without training: only what its readers look at is real."""

import json

from pixelcontrast import config
from pixelcontrast.config import Contrast, Data, Experiment, Optim, Run
from pixelcontrast.runs import checkpoint, provenance, run_folder
from pixelcontrast.storage import Storage

STEPS = 2
EXPERIMENT = Experiment(
    data=Data(layout="camvid", root="/data"),
    contrast=Contrast(weight=0.0),
    optim=Optim(steps=STEPS, batch_size=2),
    run=Run(name="a", storage="/runs"),
)


def write_finished_run(run: Storage, experiment: Experiment = EXPERIMENT) -> Storage:
    """Write a run of two steps with one checkpoint, whose network is no network; returns ``run``."""
    attempt = attempt_row(experiment)
    run_folder.write_experiment(run, experiment)
    run_folder.add_attempt(run, attempt)
    scores = {"miou": 0.5, "pixel_accuracy": 0.8, "iou": {"road": 0.5, "car": None}}
    place = {"step": STEPS, "steps": STEPS, "attempt": 1, "time": 1.8e9}
    rows = [
        {"kind": "train", **place, "loss": 1.0, "ce": 1.0, "images_per_second": 4.0, "lr": 0.01},
        {"kind": "eval", **place, **scores},
    ]
    run_folder.write_rows(run, rows)
    run_folder.write_table(run, rows)
    parts = {
        "experiment.json": config.to_json(experiment).encode(),
        "provenance.json": json.dumps(attempt).encode(),
        "model.safetensors": b"weights",
    }
    checkpoint.commit(run, STEPS, [checkpoint.stage(run, STEPS, parts)])
    name = checkpoint.folder_of(STEPS)
    result = {"name": experiment.run.name, "step": STEPS, **scores, "best": {"step": STEPS, "miou": 0.5}}
    result |= {"checkpoint": name, "best_checkpoint": name, "overlays": "overlays/none.png"}
    run_folder.write_result(run, result | {"attempts": 1, "provenance": attempt})
    return run


def metrics_row(step: int, kind: str = "train") -> run_folder.Row:
    """A row of metrics, of 400 steps, with what every one of its kind has."""
    measured = {"miou": 0.1, "iou": {}} if kind == "eval" else {"images_per_second": 4.0}
    return {"kind": kind, "step": step, "steps": 400, "attempt": 1, "time": float(step)} | measured


def attempt_row(experiment: Experiment = EXPERIMENT) -> run_folder.Row:
    """What a run records of its first start."""
    return {
        "attempt": 1,
        "started": "2026-11-28T09:00:00+00:00",
        "from_step": 0,
        "placement": {},
        "git": "0123abc",
        "source": provenance.source_hash(),
        "configuration": config.fingerprint(experiment),
        "versions": provenance.versions(),
        "machine": "a machine",
        "device": "cpu",
        "threads": 1,
        "world_size": 1,
        "compile": False,
        "seed": experiment.run.seed,
        "data": {"train": "00", "val": "11"},
        "images": {"train": 5, "val": 2},
    }
