"""Warnings about the embedding in real, short trainings; the bounds are set so that they are due."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelcontrast import PAPER, Data, Experiment, Model, Optim, Run, config, training
from pixelcontrast.runs.run_folder import open_storage, read_rows
from pixelcontrast.training import health
from same_run import learnt
from searches import experiment


def fit(settings: Experiment, *, until: int | None = None) -> list[dict]:
    """Train to the end, or until a checkpoint of step ``until`` is asked for; the rows as reported."""
    reported: list[dict] = []
    steps = iter(range(10**9))

    def stop() -> bool:
        return next(steps) == until

    training.fit(settings, device=torch.device("cpu"), report=reported.append, stop=stop)
    return reported


def test_a_warning_is_logged_and_recorded_once_across_a_resume(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "COLLAPSED_NORM", 0.0)
    monkeypatch.setattr(health, "YOUNG", 0)
    settings = experiment(scenes, tmp_path)
    changes = {"contrast.warmup": 0.1, "optim.steps": 7, "run.report_interval": 1, "run.eval_interval": 7}
    settings = config.replace(settings, changes)
    with caplog.at_level(logging.WARNING, logger=health.__name__.rpartition(".")[0]):
        rows = fit(settings, until=5)
        rows += fit(settings)
    assert read_rows(open_storage(settings)) == rows
    warned = [(row["step"], cause) for row in rows for cause in row.get("warnings", {})]
    assert warned.count((4, "collapsed")) == 1  # warm-up is 1 step
    assert [cause for _, cause in warned].count("collapsed") == 1
    lines = [line for row in rows for line in row.get("warnings", {}).values()]
    assert [record.getMessage() for record in caplog.records] == lines
    uninterrupted = config.replace(settings, {"run.name": "whole"})
    assert learnt(fit(uninterrupted)) == learnt(rows)


def test_a_run_says_at_its_start_which_settings_lack_their_memory(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"contrast.memory": "none", "contrast.negative_mining": "semi-hard"}
    fit(config.replace(experiment(scenes, tmp_path), changes), until=0)
    assert "contrast.negative_mining semi-hard has no effect: contrast.memory is none" in caplog.messages


@pytest.mark.slow
@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
@pytest.mark.parametrize(("overrides", "warns"), [(PAPER, True), ({}, False)], ids=["paper", "default"])
def test_the_paper_s_settings_from_scratch_warn_of_their_collapse(
    overrides: dict[str, Any], warns: bool, tmp_path: Path
) -> None:
    """On real images, with the bounds as they are; the default settings do not warn."""
    settings = Experiment(
        data=Data(layout="camvid", root=os.environ["CAMVID_ROOT"], crop_size=(96, 128)),
        model=Model(backbone="hrnet_w18_small"),
        optim=Optim(steps=150, batch_size=8, lr=0.02),
        run=Run(name="scratch", storage=str(tmp_path), report_interval=10, eval_interval=150),
    )
    rows = fit(config.replace(settings, overrides))
    causes = {cause for row in rows for cause in row.get("warnings", {})}
    assert bool(causes & {"collapsed", "inverted_gap"}) is warns, rows[-2]
