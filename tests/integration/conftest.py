"""The training that many files compare with, made once."""

from pathlib import Path

import pytest

from pixelcontrast import training
from small_fit import FinishedRun, experiment, fit


@pytest.fixture(scope="session")
def uninterrupted(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of eight steps that was never interrupted; nothing may be written into its folder."""
    settings = experiment(scenes, tmp_path_factory.mktemp("uninterrupted"))
    assert training.check(settings) is None
    return FinishedRun(settings, fit(settings))
