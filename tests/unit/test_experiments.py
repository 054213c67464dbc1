"""The experiment files: complete configurations, whose help costs no heavy import."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pixelcontrast import Experiment, config

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


def test_there_are_experiments() -> None:
    assert {path.stem for path in FILES} >= {"cityscapes", "camvid", "streets"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_is_complete(path: Path) -> None:
    experiment = runpy.run_path(str(path))["EXPERIMENT"]
    assert isinstance(experiment, Experiment)
    assert config.from_json(config.to_json(experiment)) == experiment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_help_is_light(path: Path) -> None:
    code = f"""
import runpy, sys
sys.argv = ["experiment", "--help"]
try:
    runpy.run_path({str(path)!r}, run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
print("loaded:", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.partition("loaded:")
    assert "--contrast.temperature" in shown
    assert not {"torch", "ray", "timm", "torchvision"} & set(loaded.split())
