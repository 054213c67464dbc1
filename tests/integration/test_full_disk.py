"""A disk that is full in the middle of a training: a real one of a few megabytes."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelcontrast import Experiment, replace, training
from pixelcontrast.cluster.connect import connect
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.train.launch import launch
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage, read_attempts
from pixelcontrast.storage import Storage
from resuming import experiment
from same_run import assert_same_run

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk"),
]
CHECKPOINT = 13.1
"""MB of one of this network."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """With room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={int(1.5e6 * CHECKPOINT)}", "tmpfs", folder], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={int(5e6 * CHECKPOINT)}", disk], check=True)


def settings_on(disk: Path, scenes: Path) -> Experiment:
    """A network whose checkpoints are most of what is written."""
    changes = {"model.backbone": "hrnet_w18_small", "run.keep_checkpoints": 1}
    return replace(experiment(scenes, str(disk)), changes)


def fit(settings: Experiment, report: Any = lambda _: None) -> None:
    training.fit(settings, device=torch.device("cpu"), report=report)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    settings = settings_on(tmp_path_factory.mktemp("uninterrupted"), scenes)
    fit(settings)
    return settings


def test_a_disk_too_small_for_the_second_checkpoint_ends_the_run_and_keeps_the_first(
    scenes: Path, disk: Path, finished: Experiment
) -> None:
    settings = settings_on(disk, scenes)
    with pytest.raises(OSError, match=r"step-00000004\.partial/\w+\.\w+ cannot be written: .*No space left"):
        fit(settings)
    run = open_storage(settings)
    assert run.names("checkpoints") == ["step-00000003"]  # nothing of the other
    assert checkpoint.newest_valid(run) == ("checkpoints/step-00000003", {})
    enlarge(disk)
    fit(settings)
    assert read_attempts(run)[-1]["from_step"] == 3
    assert_same_run(settings, finished)


def test_what_is_appended_to_a_full_disk_is_there_whole_or_not_at_all(disk: Path) -> None:
    run = Storage(str(disk))
    run.write("metrics.jsonl", b"first\n")
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    with pytest.raises(OSError, match=r"disk/metrics\.jsonl cannot be written: .*No space left") as caught:
        run.append("metrics.jsonl", b"x" * (free + 10**6) + b"\n")
    assert caught.value.errno == errno.ENOSPC
    assert run.read("metrics.jsonl") == b"first\n"
    run.append("metrics.jsonl", b"second\n")
    assert run.read("metrics.jsonl") == b"first\nsecond\n"


def test_a_disk_that_something_else_fills_is_said_before_the_start_too(
    scenes: Path, disk: Path, finished: Experiment
) -> None:
    settings, ballast = settings_on(disk, scenes), disk / "ballast"
    enlarge(disk)

    def fill(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            full = subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], capture_output=True)
            assert b"No space left" in full.stderr

    with pytest.raises(OSError, match=r"small/metrics\.jsonl cannot be written: .*No space left on device"):
        fit(settings, fill)
    with pytest.raises(
        ValueError, match=r"run\.storage: .*small cannot be written: .*No space left on device"
    ):
        training.check(settings)
    ballast.unlink()
    assert training.check(settings) is None
    fit(settings)
    assert_same_run(settings, finished)
    assert not [path for path in disk.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.slow
def test_under_ray_a_full_disk_is_not_tried_again_and_said_in_one_line(
    scenes: Path, disk: Path, finished: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_on(disk, scenes)
    caplog.set_level(logging.WARNING)
    with connect(min_cpus=1):
        with pytest.raises(LaunchError) as caught:
            launch(settings, on_row=lambda _: None)
        said = str(caught.value)
        assert "; retry " not in caplog.text
        enlarge(disk)
        launch(settings, on_row=lambda _: None)
    assert caught.value.final
    assert said.startswith("worker 0 failed: OSError: rank 0: ")
    assert "cannot be written: [Errno 28] No space left on device; free some space (df -h shows" in said
    assert "\n" not in said
    assert len(read_attempts(open_storage(settings))) == 2
    assert_same_run(settings, finished)
