"""The package in an environment of its own that has torch and numpy, and nothing of the platform."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

OWN_LOOP = """
import sys
import torch
import pixelcontrast.contrast
from pixelcontrast import PixelContrast

features = torch.randn(2, 8, 16, 16, requires_grad=True)
labels, logits = torch.randint(0, 3, (2, 32, 32)), torch.randn(2, 3, 16, 16)
contrast = PixelContrast(num_classes=3, embedding_dim=8)
contrast(torch.nn.functional.normalize(features, dim=1), labels, logits).backward()
assert features.grad.abs().sum() > 0
assert not {"ray", "timm", "pydantic", "tyro", "torchvision"} & sys.modules.keys()
"""


def installed(name: str) -> dict[str, importlib.metadata.Distribution]:
    """A package and all that it requires, without extras, as installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    names = [name]
    while names:
        name = names.pop().lower().replace("_", "-")
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            needed = [Requirement(text) for text in found[name].requires or ()]
            names += [each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def pip(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a virtual environment with the package's wheel.

    torch, numpy and what they require are links to what is installed here: gigabytes are not downloaded.
    """
    folder = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    for package in (installed("torch") | installed("numpy")).values():
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(Path(str(package.locate_file(name))))
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    pip("--python", folder / "venv/bin/python", "install", "--no-deps", wheel)
    return folder / "venv/bin"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_wheel_requires_torch_and_numpy_and_they_are_enough(light: Path) -> None:
    assert pip("--python", light / "python", "check") == "No broken requirements found.\n"
    asked = run(light / "python", "-c", OWN_LOOP)
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize("name", ["Experiment", "main", "Search", "load_model"])
def test_a_name_of_the_platform_says_what_to_install(light: Path, name: str) -> None:
    asked = run(light / "python", "-c", f"from pixelcontrast import {name}")
    assert asked.returncode == 1
    last = asked.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: pixelcontrast.{name} needs ")
    assert last.endswith('which is not installed: pip install "pixelcontrast[platform]"')


@pytest.mark.parametrize("command", [["pixelcontrast", "--version"], ["python", "-m", "pixelcontrast"]])
def test_the_command_says_in_one_line_what_to_install(light: Path, command: list[str]) -> None:
    asked = run(light / command[0], *command[1:])
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1)
    assert asked.stderr.startswith("the command pixelcontrast needs ")
    assert asked.stderr.endswith('pip install "pixelcontrast[platform]"\n')
