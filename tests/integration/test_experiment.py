"""An experiment's command as a user types it: workers on a local Ray cluster, killed and taken up."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch

from pixelcontrast import config, training
from pixelcontrast.cluster.connect import Connection, connect
from processes import run_ranks
from same_run import differing_parts

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALL = """
    --model.backbone test_resnet --model.weights none --model.embedding-dim 32 --data.crop-size 64 64
    --data.loader-processes 0 --contrast.pixel-queue-size 20 --optim.steps 40 --optim.batch-size 3
    --run.name small --run.workers 2 --run.device cpu --run.cpus-per-worker 1 --run.precision float32
    --run.report-interval 5 --run.eval-interval 20 --run.checkpoint-interval 10
"""


def command(scenes: Path, storage: Path, *more: str) -> list[str]:
    places = ["--data.root", str(scenes), "--run.storage", str(storage)]
    return [sys.executable, str(EXPERIMENTS / "cityscapes.py"), *SMALL.split(), *places, *more]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def kill_after(step: int, arguments: list[str], cwd: Path) -> set[int]:
    """SIGKILL the driver once it has shown ``step``; returns the processes that it had started."""
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, cwd=cwd, env=environment(), start_new_session=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith(f"step {step}/"):
                children = {child.pid for child in psutil.Process(driver.pid).children(recursive=True)}
                driver.send_signal(signal.SIGKILL)
                return children
    raise AssertionError(f"the run ended with {driver.returncode} before step {step}")


def run_here(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """The command's status; in this process, for what ends before anything starts: an import less."""
    monkeypatch.setattr(sys, "argv", arguments[1:])
    try:
        runpy.run_path(arguments[1], run_name="__main__")
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_killed_half_way_on_one_worker_and_started_again(
    scenes: Path,
    tmp_path: Path,
    workers: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command(scenes, tmp_path / "runs", "--run.workers", workers)
    started = kill_after(15, [*arguments, "--run.workers", "1"], tmp_path)
    assert len(started) > 4
    again = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False
    )
    assert again.returncode == 0, again.stderr
    found = re.search(r"resuming from checkpoints/step-(\d+)", again.stderr)
    assert found
    assert ("world_size was 1 and is now 2" in again.stderr) == (workers == "2")
    resumed = int(found[1])
    assert resumed in (10, 20, 30)  # the workers may write another two before the kill reaches them
    lines = again.stdout.splitlines()
    assert any(line.startswith("step 40/40  CE ") and "contrast" in line for line in lines)
    table = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("road", "sky", "mIoU"))}
    assert 0 < float(table["mIoU"]) < 100

    run = tmp_path / "runs" / "small"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(5, 41, 5))
    assert [row["attempt"] for row in rows if row["kind"] == "train"] == [
        1 if step <= resumed else 2 for step in range(5, 41, 5)
    ]
    result = json.loads((run / "result.json").read_text())
    assert round(100 * result["miou"], 1) == float(table["mIoU"])
    for name in (result["overlays"], f"{result['best_checkpoint']}/model.safetensors"):
        assert (run / name).is_file()

    psutil.wait_procs([psutil.Process(pid) for pid in started if psutil.pid_exists(pid)], timeout=30)
    assert not [pid for pid in started if psutil.pid_exists(pid)], "processes of the killed driver are left"

    assert run_here(arguments, monkeypatch) == 0
    assert "Run small is finished; choose another --run.name to start a new one." in capsys.readouterr().out
    assert run_here([*arguments, "--contrast.temperature", "0.2"], monkeypatch) == 2
    assert "contrast.temperature was 0.1 and is now 0.2" in capsys.readouterr().err


@pytest.mark.slow
def test_joins_an_existing_cluster_and_survives_a_killed_worker(scenes: Path, tmp_path: Path) -> None:
    arguments = command(scenes, tmp_path / "runs", "--optim.steps", "30")
    messages = tmp_path / "messages"
    with connect(min_cpus=2) as cluster:
        assert os.environ["RAY_ADDRESS"] == cluster.address
        with (
            messages.open("w") as errors,
            subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=tmp_path
            ) as driver,
        ):
            assert driver.stdout is not None
            while not driver.stdout.readline().startswith("step 15/"):
                assert driver.poll() is None, messages.read_text()
            processes = psutil.Process().children(recursive=True)
            next(found for found in processes if "RayTrainWorker" in found.name()).kill()
            driver.communicate()
        assert driver.returncode == 0, messages.read_text()
        assert is_alive(cluster)
    assert "retry 1 of 3" in messages.read_text()
    assert "resuming from checkpoints/step-000000" in messages.read_text()
    rows = [json.loads(line) for line in (tmp_path / "runs/small/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(5, 31, 5))
    assert rows[-1]["attempt"] == 2


def stop_after(step: int, number: int, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Send a signal to the driver's process group once ``step`` is shown, as terminals and ``timeout`` do."""
    shown = ""
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    ) as driver:
        assert driver.stdout is not None
        while f"step {step}/" not in shown:
            shown += driver.stdout.readline()
            assert driver.poll() is None
        os.killpg(driver.pid, number)
        out, errors = driver.communicate()
    return subprocess.CompletedProcess(arguments, driver.returncode, shown + out, errors)


def own_folders() -> set[Path]:
    """The folders of local Ray instances, each with its token."""
    return set(Path(tempfile.gettempdir()).glob("pixelcontrast-*/token"))


def train_two_ranks(_rank: int, _world_size: int, text: str) -> None:
    training.fit(config.from_json(text), device=torch.device("cpu"), report=lambda _: None)


@pytest.mark.slow
def test_sigterm_and_ctrl_c_leave_a_checkpoint_and_the_same_command_goes_on(
    scenes: Path, tmp_path: Path
) -> None:
    """No step is lost or done twice, and the end is to the bit that of a training never stopped."""
    more = ("--run.checkpoint-interval", "1000", "--run.report-interval", "1", "--optim.steps", "24")
    arguments = command(scenes, tmp_path / "runs", *more)
    before = own_folders()
    terminated = stop_after(6, signal.SIGTERM, arguments, tmp_path)
    assert terminated.returncode == 143, terminated.stderr
    found = re.search(
        r"Stopped with a checkpoint at step (\d+)\. Rerun the command to resume", terminated.stderr
    )
    assert found, terminated.stderr
    assert "Traceback" not in terminated.stderr
    assert own_folders() <= before
    run = tmp_path / "runs" / "small"
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{int(found[1]):08d}"]

    interrupted = stop_after(int(found[1]) + 4, signal.SIGINT, arguments, tmp_path)
    assert interrupted.returncode == 130, interrupted.stderr
    assert f"resuming from checkpoints/step-{int(found[1]):08d}" in interrupted.stderr
    assert "Stopped with a checkpoint at step" in interrupted.stderr
    last = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False
    )
    assert last.returncode == 0, last.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 25))

    settings = config.from_json((run / "experiment.json").read_bytes())
    reference = config.replace(settings, {"run.name": "reference"})
    run_ranks(2, train_two_ranks, config.to_json(reference))
    assert differing_parts(settings, reference) == []


def is_alive(cluster: Connection) -> bool:
    import ray

    return cluster.address == ray.get_runtime_context().gcs_address and all(
        node["Alive"] for node in ray.nodes()
    )


@pytest.mark.slow
def test_timm_weights_that_cannot_be_had_are_said_before_anything_starts(
    scenes: Path, tmp_path: Path
) -> None:
    offline = environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    arguments = [
        *command(scenes, tmp_path / "runs"),
        "--model.weights",
        "timm",
        "--model.backbone",
        "hrnet_w48",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=offline, check=False)
    assert done.returncode == 2
    assert "timm's pretrained weights of hrnet_w48 cannot be had" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
