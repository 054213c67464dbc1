"""``reproduce``: what it prints is executed, and gives the same bits."""

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from object_store import ObjectStore
from pixelcontrast import config, parse, training
from pixelcontrast.config import Experiment
from pixelcontrast.models import SegmentationModel
from pixelcontrast.runs import checkpoint, provenance
from pixelcontrast.runs.reproduce import _code, _origin, _training, read_recipe, reproduce
from pixelcontrast.runs.run_folder import open_storage, read_experiment_file
from pixelcontrast.storage import Storage
from same_run import differing_parts
from small_fit import CPU, FinishedRun, experiment, fit, fit_until

PARTS = ("model.safetensors", "memory-0-of-1.safetensors", "optimizer.pt", "loop.json")
LAST = checkpoint.folder_of(8)


@pytest.fixture
def finished(uninterrupted: FinishedRun) -> Experiment:
    """A finished run, whose temperature is not the default."""
    return uninterrupted.settings


def folder(settings: Experiment) -> Path:
    return Path(open_storage(settings).path())


def command(text: str) -> list[str]:
    """The last command of what is printed."""
    (line,) = [line for line in text.splitlines() if line.startswith("pixelcontrast ")]
    return shlex.split(line)


def described(text: str) -> Experiment:
    """What the printed command trains."""
    _, train, file, *options = command(text)
    assert train == "train"
    return parse(read_experiment_file(file), args=options)


def test_what_is_printed_trains_the_same_bits(finished: Experiment) -> None:
    text = reproduce(folder(finished))
    again = described(text)
    assert again.run.name == "small-again"
    assert config.differences(finished, again) == {}
    fit(again)
    assert differing_parts(again, finished) == []
    files = json.loads(open_storage(again).read(f"{LAST}/manifest.json"))["files"]
    assert text.endswith(f"/manifest.json has then sha256 {files['model.safetensors']['sha256']}")


def test_a_gpu_is_not_promised_the_same_bits(finished: Experiment) -> None:
    recipe = read_recipe(folder(finished))
    for device, promised in (("cpu", True), ("cuda", False)):
        found = dataclasses.replace(recipe, provenance={**recipe.provenance, "device": device})
        *_, command, last = _training(found)
        assert f"--run.device {device}" in command
        assert ("it gives the same bits" in last) is promised
        assert recipe.weights is not None
        assert recipe.weights in last


@pytest.mark.slow
def test_the_printed_command_itself_trains_the_same_bits(finished: Experiment, tmp_path: Path) -> None:
    """As it stands, in a shell, under Ray; what fetches the code and the packages is left out."""
    moved = tmp_path / "runs" / "small"
    shutil.copytree(folder(finished), moved)
    printed = subprocess.run(
        ["pixelcontrast", "reproduce", "runs/small/result.json"],
        capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True,
    ).stdout  # fmt: skip
    kept = [line for line in printed.splitlines() if not line.startswith(("git ", "pip "))]
    subprocess.run(
        ["sh", "-e"], input="\n".join(kept), text=True, cwd=tmp_path, env=environment(), check=True
    )
    again = open_storage(finished).path().replace("small", "small-again")
    ours = checkpoint.load(Storage(again), LAST)
    theirs = checkpoint.load(Storage(str(moved)), LAST)
    assert [part for part in PARTS if ours[part] != theirs[part]] == []


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_a_checkpoint_s_command_keeps_that_checkpoint(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = experiment(
        scenes, tmp_path, optim__steps=7, run__checkpoint_interval=1, run__keep_checkpoints=1
    )
    fit_until(2, settings, monkeypatch)
    # The unfinished run stands for its newest checkpoint, in whatever way it is named.
    text = reproduce(folder(settings) / checkpoint.folder_of(2))
    assert reproduce(f"file://{folder(settings)}") == text.replace(str(tmp_path), f"file://{tmp_path}", 1)
    monkeypatch.chdir(folder(settings))
    assert reproduce(".") == text
    assert "# small, step 2 of 7, seed 0; on " in text
    again = described(text)
    fit(again)
    assert "model.safetensors" not in differing_parts(again, settings, step=2)


def test_a_checkpoint_that_a_stop_wrote_is_written_again(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path, run__keep_checkpoints=1)
    asked = itertools.count()
    assert training.fit(settings, device=CPU, report=lambda _: None, stop=lambda: next(asked) >= 4) == 5
    again = described(reproduce(folder(settings)))
    fit(again)
    assert "model.safetensors" not in differing_parts(again, settings, step=5)


def test_settings_code_versions_and_data_are_said(finished: Experiment) -> None:
    text = reproduce(folder(finished) / "result.json")
    result = training.check(finished)
    assert result is not None
    found = result["provenance"]
    assert "#   contrast.temperature 0.2\n" in text
    assert "optim.lr" not in text
    assert f"# configuration {found['configuration']}," in text
    assert f"# train images: 10 of fingerprint {found['data']['train']}" in text
    assert f"# the code, of source hash {provenance.source_hash()}, is the code installed here" in text
    assert re.search(
        rf"^pip install -e '\.\[platform\]' torch=={re.escape(found['versions']['torch'])} torchvision",
        text,
        re.M,
    )
    for option in ("--run.workers 1", "--run.cpus-per-worker 1", "--run.device cpu"):
        assert option in text


@pytest.mark.parametrize(
    ("git", "lines", "warning"),
    [
        ("0123abc", ["git checkout 0123abc"], None),
        ("0123abc-dirty", ["git checkout 0123abc"], "its files differed from this commit"),
        ("unknown", [], "its commit is unknown"),
        ("a b; rm -rf /", ["git checkout 'a b; rm -rf /'"], None),
    ],
)
def test_the_commit_is_checked_out_and_doubts_are_said(
    finished: Experiment, git: str, lines: list[str], warning: str | None
) -> None:
    recipe = read_recipe(folder(finished))
    found = _code(
        dataclasses.replace(recipe, provenance={**recipe.provenance, "git": git, "source": "other"})
    )
    assert [line for line in found if line.startswith("git")] == lines
    assert [line for line in found if "WARNING" in line] == [
        line for line in found if warning and warning in line
    ]
    assert found[0] == "# the code, of source hash other, is not installed here"


def test_a_run_that_went_on_under_other_conditions_cannot_be_repeated_to_the_bit(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = experiment(scenes, tmp_path, optim__steps=4)
    fit_until(3, settings, monkeypatch)
    torch.set_num_threads(2)
    try:
        fit(settings)
    finally:
        torch.set_num_threads(1)
    warnings = [line for line in _origin(read_recipe(folder(settings))) if "WARNING" in line]
    assert len(warnings) == 1
    assert "attempt 2 resumed from step 3 under other conditions (threads was 1, then 2)" in warnings[0]
    assert described(reproduce(folder(settings))).run.cpus_per_worker == 2
    # The checkpoint before is of the first attempt alone.
    first = read_recipe(folder(settings) / checkpoint.folder_of(3))
    assert not [line for line in _origin(first) if "WARNING" in line]


def test_a_run_that_went_on_compiled_is_repeated_compiled(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentationModel, "compile", lambda _: None)  # it would take minutes
    settings = experiment(scenes, tmp_path, optim__steps=4)
    fit_until(3, settings, monkeypatch)
    fit(config.replace(settings, {"run.compile": True}))
    text = reproduce(folder(settings))
    assert "resumed from step 3 under other conditions (compile was False, then True)" in text
    assert re.search("^# small, step 4 of 4, .*, compiled$", text, re.M)
    assert "\n# On such a machine, with the same C++ compiler, it gives the same bits" in text
    assert described(text).run.compile
    shutil.rmtree(folder(settings) / "checkpoints")
    (folder(settings) / "attempts.jsonl").unlink()
    assert described(reproduce(folder(settings))).run.compile, "the result alone says it, too"
    result = json.loads((folder(settings) / "result.json").read_text())
    assert result["provenance"]["compile"] is True


def test_a_result_whose_checkpoints_are_gone_is_enough(finished: Experiment, tmp_path: Path) -> None:
    shutil.copytree(folder(finished), tmp_path / "small", ignore=shutil.ignore_patterns("checkpoints"))
    text = reproduce(tmp_path / "small")
    assert config.differences(finished, described(text)) == {}
    assert "sha256" not in text


def test_a_run_in_an_object_store_is_verified_and_repeated_from_there(
    scenes: Path, object_store: ObjectStore
) -> None:
    settings = experiment(scenes, Path("unused"), optim__steps=2)
    settings = config.replace(settings, {"run.storage": object_store.uri("repeated")})
    fit(settings)
    run = object_store.uri("repeated/small")
    lines = list(training.verify(run))
    assert {line.state for line in lines} == {"ok"}
    assert "checkpoints/step-00000002" in {line.name for line in lines}
    text = reproduce(run)
    assert reproduce(object_store.uri("repeated/small/result.json")) == text
    assert reproduce(object_store.uri("repeated/small/checkpoints/step-00000002")) == text
    again = described(text)
    assert (again.run.storage, again.run.name) == (settings.run.storage, "small-again")
    assert config.differences(settings, again) == {}


def test_what_is_no_result_or_damaged_is_named(finished: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{tmp_path}: neither a run nor a checkpoint"):
        reproduce(tmp_path)
    copy = shutil.copytree(folder(finished), tmp_path / "small")
    (copy / LAST / "experiment.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"small/{LAST}: {LAST}/experiment.json has 2 bytes instead of"):
        reproduce(copy)


def test_a_recorded_experiment_is_trained_by_the_options_of_its_command(
    finished: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without another name it is the run itself, which says that it is finished."""
    from pixelcontrast import cli

    def train(*args: str) -> object:
        monkeypatch.setattr(sys, "argv", ["pixelcontrast", "train", *args])
        try:
            cli.command()
        except SystemExit as caught:
            return caught.code
        return None

    file = str(folder(finished) / "experiment.json")
    assert train(file) is None
    assert "Run small is finished; choose another --run.name" in capsys.readouterr().out
    assert train(file, "--contrast.temperature", "0.3") == 2
    assert "contrast.temperature was 0.2 and is now 0.3" in capsys.readouterr().err
    assert train(file, "--help") == 0
    assert "--contrast.temperature" in capsys.readouterr().out
    assert train("/nowhere/experiment.json") == 2
    assert "/nowhere/experiment.json cannot be read" in capsys.readouterr().err
    assert train(str(folder(finished) / "result.json")) == 2
    assert "result.json cannot be read by this version: " in capsys.readouterr().err
