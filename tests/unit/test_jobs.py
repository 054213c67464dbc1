"""What a job carries to the cluster, packed by Ray itself, and the paths that a job may have."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.py_modules import upload_py_modules_if_needed
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

import repository
import strict_yaml
from pixelcontrast import Search, choice, config
from pixelcontrast.cluster.doctor.diagnose import Wanted, diagnose
from pixelcontrast.cluster.paths import reachable_paths
from pixelcontrast.cluster.tune.search import run_search
from pixelcontrast.config import Data, Experiment, Run

PACKAGE = "platform/pixelcontrast/"
STAYS = ("platform/", "tests/", ".ci/")
PRIVATE = [
    "runs/streets/metrics.jsonl",
    "runs/streets/checkpoints/step-00000100/model.safetensors",
    ".git/config",
    ".venv/bin/python",
    ".env",
    ".env.local",
    ".netrc",
    ".aws/credentials",
    ".ssh/id_ed25519",
    "auth_token",
    "clusters/auth_token",
    "clusters/head.pem",
    "clusters/gcp-credentials.json",
    "experiments/api.key",
    "experiments/__pycache__/camvid.cpython-311.pyc",
    ".pytest_cache/README.md",
    f"{PACKAGE}__pycache__/config.cpython-311.pyc",
    f"{PACKAGE}cluster/.env",
]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, set[str]]:
    """A copy of the repository with what may lie in one that is worked in; and the files that git tracks."""
    folder = tmp_path / "clone"
    tracked = set(repository.copy_to(folder))
    for name in PRIVATE:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("private")
    monkeypatch.chdir(folder)
    return folder, tracked


def pack(runtime_env: dict[str, Any], folder: Path) -> tuple[set[str], set[str]]:
    """The files of the working folder and of the module, as Ray packs them for an upload."""
    packed = []

    def upload(path: str, excludes: list[str] | None = None, is_file: bool = False) -> None:
        assert not is_file
        target = folder / f"{len(packed)}.zip"
        module = path != runtime_env["working_dir"]
        create_package(path, target, include_gitignore=True, include_parent_dir=module, excludes=excludes)
        with ZipFile(target) as archive:
            packed.append({name for name in archive.namelist() if not name.endswith("/")})

    upload_working_dir_if_needed(dict(runtime_env), include_gitignore=True, upload_fn=upload)
    upload_py_modules_if_needed(dict(runtime_env), include_gitignore=True, upload_fn=upload)
    working_dir, module = packed
    return working_dir, module


def module_files(tracked: set[str]) -> set[str]:
    return {name.removeprefix("platform/") for name in tracked if name.startswith(PACKAGE)}


def test_a_job_carries_the_package_whole_and_nothing_that_is_private(clone, tmp_path):
    folder, tracked = clone
    runtime_env = strict_yaml.load(folder / "clusters/runtime_env.yaml")
    working_dir, module = pack(runtime_env, tmp_path)
    assert module == module_files(tracked)
    assert working_dir == {name for name in tracked if not name.startswith(STAYS)}
    assert {"experiments/cityscapes.py", "clusters/runtime_env.yaml"} <= working_dir


@pytest.mark.parametrize("pattern", ["datasets/", "/datasets/", "/runs/", "*.css", "search", "contrast.py"])
def test_a_pattern_that_swallows_files_of_the_package_is_seen(clone, tmp_path, pattern):
    folder, tracked = clone
    runtime_env = strict_yaml.load(folder / "clusters/runtime_env.yaml")
    runtime_env["excludes"].append(pattern)
    _, module = pack(runtime_env, tmp_path)
    assert module < module_files(tracked)


def experiment(storage: str, root: str = "/data") -> Experiment:
    return Experiment(data=Data(layout="camvid", root=root), run=Run(name="run", storage=storage))


def test_a_job_may_not_have_relative_paths(monkeypatch):
    relative = experiment("runs")
    assert Path(reachable_paths(relative).run.storage) == Path.cwd() / "runs"
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    with pytest.raises(ValueError, match=r"run.storage is 'runs', a relative path. This is a job: .*s3://"):
        reachable_paths(relative)
    with pytest.raises(ValueError, match=r"data.root is 'runs/scenes', a relative path. .* every node"):
        reachable_paths(experiment("s3://bucket/runs", "runs/scenes"))
    for weights in ("hrnet.pth", "runs/hrnet.pth"):
        taken = config.replace(experiment("/shared/runs"), {"model.weights": weights})
        with pytest.raises(ValueError, match=rf"model.weights is '{weights}', .* Give none, timm, or "):
            reachable_paths(taken)
    doctor = Wanted(storage="runs", data=None, layout=None, run=Run(name="doctor"))
    with pytest.raises(ValueError, match=r"storage is 'runs', a relative path. This is a job"):
        diagnose(doctor)
    search = Search(space={"optim.lr": choice(0.01, 0.1)}, study="sqlite:///study.db")
    with pytest.raises(ValueError, match=r"--study is 'study.db', .* Give sqlite:////absolute/path.db, or "):
        run_search(experiment("/shared/runs"), search, listener=Mock())
    for storage in ("s3://bucket/runs", "gs://bucket/runs", "/shared/runs"):
        assert reachable_paths(experiment(storage)).run.storage == storage
    for weights in ("none", "timm", "/shared/hrnet.pth"):
        taken = config.replace(experiment("/shared/runs"), {"model.weights": weights})
        assert reachable_paths(taken).model.weights == weights
