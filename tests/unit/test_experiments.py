"""The experiment files: complete configurations, whose help costs no heavy import."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelcontrast import Experiment, config, parse
from pixelcontrast.models import build_model, check_model
from pixelcontrast.search.settings import arms_of, check_space

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


def test_there_are_experiments() -> None:
    assert {path.stem for path in FILES} >= {"cityscapes", "camvid", "streets"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_is_complete(path: Path) -> None:
    experiment = runpy.run_path(str(path))["EXPERIMENT"]
    assert isinstance(experiment, Experiment)
    assert config.from_json(config.to_json(experiment)) == experiment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_experiment_searches_and_compares_can_be_trained(path: Path) -> None:
    found = runpy.run_path(str(path))
    check_space(found["SEARCH"], found["EXPERIMENT"])
    assert "ce" in arms_of(found["SEARCH"], found["EXPERIMENT"])


@pytest.mark.parametrize(
    ("backbone", "decoder", "parameters"),
    [
        ("hrnet_w48", "hrnet", 70_006_560),
        ("hrnet_w48", "ocr", 74_522_182),
        ("resnet101s", "deeplabv3", 89_570_278),
        ("resnet101s", "ocr", 57_988_838),
    ],
)
def test_every_network_is_an_option_of_cityscapes(backbone: str, decoder: str, parameters: int) -> None:
    cityscapes = runpy.run_path(str(FILES[0].parent / "cityscapes.py"))["EXPERIMENT"]
    options = ["--model.backbone", backbone, "--model.decoder", decoder]
    settings = parse(cityscapes, args=options).model
    check_model(settings)
    with torch.device("meta"):
        model = build_model(replace(settings, weights="none"), num_classes=19, embedding=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


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
