"""Nothing that is read runs code, and no secret is written down."""

import ast
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pixelcontrast
from object_store import CANARY
from pixelcontrast import Search, config, load_model, loguniform, replace, training
from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.storage import Storage
from resuming import experiment

CPU = torch.device("cpu")


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> config.Experiment:
    """A run of three steps."""
    settings = replace(experiment(scenes, str(tmp_path_factory.mktemp("runs"))), {"optim.steps": 3})
    training.fit(settings, device=CPU, report=lambda _: None)
    return settings


def torch_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def bare_pickle(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


def put(run: Storage, part: str, content: bytes) -> None:
    """Another part in the newest checkpoint, with a manifest that vouches for it."""
    folder = checkpoint.folder_of(3)
    run.write(f"{folder}/{part}", content)
    manifest = json.loads(run.read(f"{folder}/{checkpoint.MANIFEST}"))
    manifest["files"][part] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    run.write(f"{folder}/{checkpoint.MANIFEST}", json.dumps(manifest).encode())
    assert checkpoint.newest_valid(run) == (folder, {})


@pytest.mark.parametrize("pack", [torch_pickle, bare_pickle])
@pytest.mark.parametrize(
    "part", ["optimizer.pt", "model.safetensors", "memory-0-of-1.safetensors", "loop.json", "provenance.json"]
)
def test_code_in_a_checkpoint_is_never_run_though_its_manifest_vouches_for_it(
    part: str, pack: Any, finished: config.Experiment, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    settings = replace(finished, {"run.storage": str(tmp_path)})
    run, source = open_storage(settings), open_storage(finished)
    for name in source.sizes():
        if name != "result.json":
            run.write(name, source.read(name))
    trap = pack({"state": {0: {"momentum_buffer": Trap(canary)}}, "param_groups": []})
    put(run, part, trap)
    with pytest.raises(Exception) as caught:
        training.fit(settings, device=CPU, report=lambda _: None)
    if part == "optimizer.pt":
        assert isinstance(caught.value, ValueError)
        assert "optimizer.pt holds more than tensors and numbers, which could run code" in str(caught.value)
    if part == "model.safetensors":
        with pytest.raises(Exception):  # noqa: B017
            load_model(run.location)
    assert not canary.exists()
    torch.load(io.BytesIO(trap), weights_only=False) if pack is torch_pickle else pickle.loads(trap)
    assert canary.exists()  # the trap is a real one


UNPICKLED = """
import pickle, sys
from pathlib import Path
import torch
from pixelcontrast import Search, config, load_model, training
from pixelcontrast.reports import write_report
from pixelcontrast.runs.record import read_summary
from pixelcontrast.runs.run_folder import open_storage
from searches import SPACE, experiment, run_search

found, (scenes, folder) = [], map(Path, sys.argv[1:])
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
pickle.loads(pickle.dumps(Path("seen")))
print(len(found))
found.clear()

search = Search(space=SPACE, trials=2, early_stopping="none")
run_search(experiment(scenes, folder), search, limit=1)
again = run_search(experiment(scenes, folder), search)
run = again.run("trial-0000")
settings = config.from_json(run.read("experiment.json"))
Path(run.path("result.json")).unlink()
training.check(settings)
training.fit(settings, device=torch.device("cpu"), report=lambda row: None)
load_model(run.location)
read_summary(run)
write_report(run.location)
write_report(again.storage.location)
print(found)
"""


def test_runs_and_searches_are_taken_up_shown_and_loaded_without_unpickling_anything(
    scenes: Path, tmp_path: Path
) -> None:
    """Python tells a hook of every class or function that a pickle names; traps lie where Tune would look."""
    canary = tmp_path / "canary"
    for place in ("small-search/.ray/x", "small-search/trial-0000/.ray/x", "small-search/trial-0000"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for name in (
            "tuner.pkl",
            "trainer.pkl",
            "searcher-state.pkl",
            "experiment_state-1.json",
            "params.pkl",
        ):
            (tmp_path / place / name).write_bytes(pickle.dumps(Trap(canary)))
    command = [sys.executable, "-c", UNPICKLED, str(scenes), str(tmp_path)]
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    seen, found = done.stdout.splitlines()[:1], done.stdout.splitlines()[-1]
    assert int(seen[0]) > 0
    assert found == "[]"
    assert not canary.exists()
    journal = (tmp_path / "small-search" / "study.journal").read_text().splitlines()
    assert all(json.loads(line) for line in journal)


def test_the_platform_has_no_means_to_run_what_it_reads() -> None:
    allowed = {("torch.load", "weights_only")}
    for path in Path(pixelcontrast.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            safe = {
                (called, word.arg) for word in node.keywords if ast.unparse(word.value) == "True"
            } & allowed
            where = f"{path}:{node.lineno}: {called}"
            assert called != "torch.load" or safe, where
            assert called not in ("eval", "exec", "compile", "np.load", "numpy.load", "yaml.load"), where
            assert not called.endswith("Tuner.restore"), where  # it unpickles
            reader, _, verb = called.rpartition(".")
            unpicklers = ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")
            assert reader not in unpicklers or verb not in ("load", "loads", "Unpickler", "open"), where


def test_nothing_of_the_environment_is_written_into_a_run(finished: config.Experiment) -> None:
    """Not even where a secret is what opens the storage: ``test_fit_resumed`` looks on an object store."""
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == CANARY
    run = open_storage(finished)
    names = run.sizes()
    assert len(names) > 10
    assert not [name for name in names if CANARY.encode() in run.read(name)]


def test_a_password_of_the_study_s_database_is_refused_and_not_repeated(scenes: Path, tmp_path: Path) -> None:
    search = Search(
        space={"optim.lr": loguniform(0.01, 0.1)}, trials=1, study="postgresql://me:hunter2@db/optuna"
    )
    with pytest.raises(ValueError, match=r"--study: a password stands in the URL.*PGPASSWORD") as caught:
        SearchFolder(experiment(scenes, str(tmp_path)), search, None).check()
    assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
def test_a_token_that_others_can_read_is_warned_of(
    mode: int, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(mode)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # where nothing listens
    with pytest.raises(LaunchError, match=r"RAY_ADDRESS is 127\.0\.0\.1:9, but connecting failed"), connect():
        pass
    assert (
        f"the cluster's token can be read by others (mode 0644): chmod 600 {token}" in caplog.text
    ) is warned
