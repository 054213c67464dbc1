"""Small searches made without Ray, by real trainings in this process."""

from pathlib import Path

import torch

from pixelcontrast import (
    Contrast,
    Data,
    Experiment,
    Model,
    Optim,
    Run,
    Search,
    choice,
    config,
    loguniform,
    training,
)
from pixelcontrast.runs.record import read_summary
from pixelcontrast.search.artifacts import attach
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.settings import arms_of
from pixelcontrast.search.trials import Trials

SPACE = {
    "contrast.temperature": loguniform(0.03, 0.5),
    "optim.lr": loguniform(0.001, 0.1),
    "contrast.memory": choice("none", "pixel", "both"),
}
ARMS = {
    "ce": {"contrast.weight": 0.0},
    "contrast": {},
    "cool": {"contrast.temperature": 0.07},
}


def experiment(scenes: Path, storage: Path) -> Experiment:
    """Four steps on generated scenes, evaluated twice; under a second."""
    return Experiment(
        data=Data(layout="cityscapes", root=str(scenes), crop_size=(64, 64)),
        model=Model(backbone="test_resnet", embedding_dim=16),
        contrast=Contrast(memory="both"),
        optim=Optim(steps=4, batch_size=2),
        run=Run(name="small", storage=str(storage), report_interval=2, eval_interval=2, device="cpu"),
    )


def run_search(settings: Experiment, search: Search, *, arms: bool = False, limit: int = 100) -> SearchFolder:
    """Train up to ``limit`` of the trials to their ends, or to where they are stopped early."""
    plan = arms_of(search, settings) if arms else None
    folder = SearchFolder(settings, search, plan)
    folder.check()
    with folder.held() as storage:
        trials = folder.trials(storage)
        for _ in range(min(limit, trials.remaining)):
            proposal = trials.next()
            assert proposal is not None
            places = {"run.name": proposal.name, "run.storage": folder.storage.location}
            _train(trials, proposal.number, config.replace(settings, proposal.overrides | places), folder)
    return folder


class _Stopped(Exception):  # noqa: N818
    pass


def _train(trials: Trials, number: int, settings: Experiment, folder: SearchFolder) -> None:
    def report(row: dict) -> None:
        early = row["kind"] == "eval" and row["step"] < settings.optim.steps
        if early and trials.report(number, row["step"], row["miou"]):
            raise _Stopped

    try:
        training.fit(settings, device=torch.device("cpu"), report=report)
    except _Stopped:
        trials.note(number, read_summary(folder.run(settings.run.name)))
        attach(trials.study, number, folder)
        trials.prune(number)
        return
    except ValueError as error:
        trials.fail(number, str(error))
        return
    found = read_summary(folder.run(settings.run.name))
    trials.note(number, found)
    attach(trials.study, number, folder)
    trials.report(number, found["steps"], found["last_miou"])
    trials.complete(number, {"miou": found["last_miou"], "seconds_per_step": found["seconds_per_step"]})
