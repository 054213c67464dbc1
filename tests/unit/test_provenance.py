"""Where a result comes from, found in real repositories and on this machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from pixelcontrast import Data, Experiment, Run, config
from pixelcontrast.runs import provenance
from pixelcontrast.training import origin

EXPERIMENT = Experiment(data=Data(layout="camvid", root="/data"), run=Run(name="test", seed=7))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, with nothing of git around it."""
    copy = tmp_path / "project" / "pixelcontrast"
    shutil.copytree(provenance._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_PACKAGE", copy)
    monkeypatch.delenv(config.COMMIT_VARIABLE, raising=False)
    return copy


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", *author, "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def state() -> str:
    return origin.collect(EXPERIMENT, device=torch.device("cpu"))["git"]


def test_the_commit_is_named_and_that_files_differ_from_it(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(package.parent, "init")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "all")
    commit = git(package.parent, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    monkeypatch.setenv(config.COMMIT_VARIABLE, "another")
    assert state() == commit
    with (package / "draws.py").open("a") as file:
        file.write("# changed\n")
    assert state() == f"{commit}-dirty"


def test_without_git_the_variable_names_the_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state() == "unknown"
    monkeypatch.setenv(config.COMMIT_VARIABLE, "0123abc")
    assert state() == "0123abc"
    # A project that this package was installed into has commits of its own.
    git(package.parent, "init")
    git(package.parent, "commit", "--allow-empty", "-m", "not this package")
    assert state() == "0123abc"


def test_the_source_hash_is_of_every_module_and_of_nothing_else(package: Path) -> None:
    first = provenance.source_hash()
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "draws.cpython-311.pyc").write_bytes(b"compiled")
    assert provenance.source_hash() == first
    module = package / "contrast" / "memory.py"
    module.write_text(module.read_text().replace("rows", "cells", 1))
    second = provenance.source_hash()
    module.rename(package / "contrast" / "memories.py")
    assert len({first, second, provenance.source_hash()}) == 3


def test_versions_machine_threads_and_configuration_are_named() -> None:
    found = origin.collect(EXPERIMENT, device=torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "not installed" not in {
        found["versions"][name] for name in ("torchvision", "numpy", "pillow", "ray")
    }
    assert (found["threads"], found["world_size"], found["seed"]) == (torch.get_num_threads(), 1, 7)
    assert found["configuration"] == config.fingerprint(EXPERIMENT)
    cpuinfo = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", cpuinfo)
    assert found["machine"].startswith(name[1] if name else "")
    assert torch.backends.cpu.get_cpu_capability() in found["machine"]


def test_differences_are_those_that_bits_depend_on() -> None:
    before = origin.collect(EXPERIMENT, device=torch.device("cpu"))
    now = before | {
        "threads": 64,
        "git": "other",
        "versions": before["versions"] | {"torch": "9", "ray": "9"},
    }
    assert provenance.differences(before, before) == {}
    assert provenance.differences(before, now) == {
        "threads": (before["threads"], 64),
        "torch": (before["versions"]["torch"], "9"),
    }
    assert provenance.differences({"threads": 64}, now) == {}, "an older version recorded less"
