"""Runs in one process that were broken off, killed or damaged: resumed, they end as the uninterrupted one."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from object_store import CANARY, ObjectStore
from pixelcontrast import config, load_model, replace, training
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.models import SegmentationModel
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from same_run import assert_same_run, differing_parts
from small_fit import FinishedRun, experiment, fit, fit_until, metrics


@pytest.mark.parametrize("at", [3, 4, 7])
def test_resumed_run_is_bitwise_the_uninterrupted_one(
    at: int,
    uninterrupted: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped right after step ``at``: on a checkpoint, on an evaluation, and in between."""
    reference, _ = uninterrupted
    settings = replace(reference, {"run.storage": str(tmp_path)})
    fit_until(at, settings, monkeypatch)
    fit(settings)
    assert_same_run(settings, reference)
    assert [row["attempt"] for row in metrics(settings)][-1] == 2


def test_dropping_the_memory_from_a_checkpoint_is_noticed(
    uninterrupted: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: it fails when the memory starts empty after a resume."""
    from pixelcontrast.contrast import PixelContrast

    reference, _ = uninterrupted
    settings = replace(reference, {"run.storage": str(tmp_path)})
    fit_until(4, settings, monkeypatch)
    monkeypatch.setattr(PixelContrast, "load_state_dict", lambda *_: None)
    fit(settings)
    assert "model.safetensors" in differing_parts(settings, reference)


def test_the_memory_is_emptied_once_also_by_a_run_that_resumes_in_that_step(
    uninterrupted: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up's last step is 2, counted from 0, and there is a checkpoint right after it."""
    reference, _ = uninterrupted
    settings = replace(reference, {"run.storage": str(tmp_path)})
    emptied, clear = [], Memory.clear

    def seen(memory: Memory) -> None:
        assert memory.pixel is not None
        emptied.append(int(memory.pixel.written.max()))
        clear(memory)

    monkeypatch.setattr(Memory, "clear", seen)
    fit_until(3, settings, monkeypatch)
    assert emptied == [2], "rows of an untrained head"
    fit_until(4, settings, monkeypatch)
    assert emptied == [2, 2], "the interrupted step is done anew"
    fit(settings)
    assert emptied == [2, 2], "the rows of steps 3 to 5 stay"
    assert_same_run(settings, reference)


def test_a_run_that_goes_on_under_other_conditions_says_so(
    uninterrupted: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = replace(uninterrupted.settings, {"run.storage": str(tmp_path)})
    fit_until(3, settings, monkeypatch)
    fit_until(0, settings, monkeypatch)
    assert "threads was" not in caplog.text
    torch.set_num_threads(2)
    try:
        fit_until(0, settings, monkeypatch)
    finally:
        torch.set_num_threads(1)
    assert "written under other conditions: threads was 1 and is now 2" in caplog.text
    lines = open_storage(settings).read("attempts.jsonl").splitlines()
    assert [json.loads(line)["changed"] for line in lines] == [{}, {}, {"threads": [1, 2]}]


def test_a_run_that_goes_on_compiled_says_so(
    uninterrupted: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(SegmentationModel, "compile", lambda _: None)  # it would take minutes
    settings = replace(uninterrupted.settings, {"run.storage": str(tmp_path), "optim.steps": 4})
    fit_until(3, settings, monkeypatch)
    settings = replace(settings, {"run.compile": True})
    fit(settings)
    assert "written under other conditions: compile was False and is now True" in caplog.text


def test_other_images_under_the_same_name_are_refused(
    uninterrupted: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may move, but not change: here an image is gone."""
    settings = replace(uninterrupted.settings, {"run.storage": str(tmp_path / "runs")})
    fit_until(4, settings, monkeypatch)
    moved = tmp_path / "moved"
    shutil.copytree(settings.data.root, moved)
    fit_elsewhere = replace(settings, {"data.root": str(moved)})
    next(moved.glob("leftImg8bit/train/*/*.png")).unlink()
    with pytest.raises(
        ValueError, match=r"moved: the train images or their classes are not those that run small"
    ):
        fit(fit_elsewhere)


def test_a_run_killed_between_its_last_checkpoint_and_its_result_gets_its_result(
    uninterrupted: FinishedRun, tmp_path: Path
) -> None:
    reference, _ = uninterrupted
    settings = replace(reference, {"run.storage": str(tmp_path)})
    shutil.copytree(open_storage(reference).root, tmp_path / "small")
    before = json.loads((tmp_path / "small/result.json").read_text())
    for name in ("result.json", "metrics.parquet"):
        (tmp_path / "small" / name).unlink()
    assert fit(settings) == []
    result = training.check(settings)
    assert result is not None
    same = ("miou", "pixel_accuracy", "iou", "step", "best", "checkpoint", "overlays")
    assert {key: result[key] for key in same} == {key: before[key] for key in same}
    assert (tmp_path / "small/metrics.parquet").exists()
    assert_same_run(settings, reference)


@pytest.mark.parametrize("place", ["local", pytest.param("S3", marks=pytest.mark.slow)])
def test_sigkill_half_way_and_the_same_command_again(
    place: str, uninterrupted: FinishedRun, tmp_path: Path, object_store: ObjectStore
) -> None:
    reference, _ = uninterrupted
    storage = str(tmp_path / "runs") if place == "local" else object_store.uri("killed")
    settings = replace(reference, {"run.storage": storage})
    (tmp_path / "experiment.json").write_text(config.to_json(settings))
    code = """
import sys, torch
from pathlib import Path
from pixelcontrast import config, training
torch.set_num_threads(1)
settings = config.from_json(Path(sys.argv[1]).read_text())
training.fit(settings, device=torch.device("cpu"), report=lambda row: print(row["step"], flush=True))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "experiment.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 4:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert training.check(settings) is None
    subprocess.run(command, check=True, capture_output=True)
    assert training.check(settings) is not None
    assert_same_run(settings, reference)
    run = open_storage(settings)
    assert run.sizes().keys() >= {"metrics.parquet", "confusion.json", "overlays/step-00000008.png"}
    assert len(run.names("tensorboard")) >= 2  # an attempt's events each; in S3 a picture ends a file
    assert not [name for name in run.sizes() if CANARY.encode() in run.read(name)]
    ours, theirs = (load_model(open_storage(which).location) for which in (settings, reference))
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    uninterrupted: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _ = uninterrupted
    settings = replace(reference, {"run.storage": str(tmp_path)})
    fit_until(7, settings, monkeypatch)
    path = Path(open_storage(settings).path(f"{checkpoint.folder_of(6)}/optimizer.pt"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    fit(settings)
    attempt = json.loads(open_storage(settings).read("attempts.jsonl").splitlines()[-1])
    assert attempt["from_step"] == 4
    assert "step-00000006/optimizer.pt was altered" in attempt["skipped_checkpoints"][0]
    assert_same_run(settings, reference)

    for name in open_storage(settings).names("checkpoints"):
        Path(open_storage(settings).path(f"checkpoints/{name}/model.safetensors")).write_bytes(b"")
    Path(open_storage(settings).path("result.json")).unlink()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint is valid"):
        fit(settings)


def test_a_damaged_checkpoint_takes_no_sound_one_s_place_among_the_newest(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are kept: the one that the run resumed from must not give way to the one it could not use."""
    settings = experiment(scenes, tmp_path, run__eval_interval=8, run__checkpoint_interval=2)
    fit_until(7, settings, monkeypatch)
    run = open_storage(settings)
    assert run.names("checkpoints") == ["step-00000004", "step-00000006"]
    part = f"{checkpoint.folder_of(6)}/optimizer.pt"
    run.write(part, bytes([run.read(part)[0] ^ 1]) + run.read(part)[1:])
    fit_until(3, replace(settings, {"run.checkpoint_interval": 7}), monkeypatch)
    assert run.names("checkpoints") == ["step-00000004", "step-00000007"]


def test_fit_itself_refuses_another_configuration_and_lost_checkpoints(
    uninterrupted: FinishedRun, tmp_path: Path
) -> None:
    reference, _ = uninterrupted
    shutil.copytree(open_storage(reference).path(), tmp_path / "small")
    settings = replace(reference, {"run.storage": str(tmp_path)})
    before = sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for key, value in {"optim.lr": 0.5, "run.seed": 7, "optim.steps": reference.optim.steps + 1}.items():
        with pytest.raises(ValueError, match=rf"{key} was .* and is now {value}"):
            fit(replace(settings, {key: value}))
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()) == before
    shutil.rmtree(tmp_path / "small" / "checkpoints")
    with pytest.raises(
        checkpoint.CheckpointError, match="no checkpoint in checkpoints/, but the run had one"
    ):
        fit(settings)
