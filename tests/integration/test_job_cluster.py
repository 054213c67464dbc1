"""Jobs on two real nodes, from a copy of the repository; the nodes' interpreter lacks the package.

The five that train, refuse and stop took 6 min 30 s, of which the nodes' start and end 80 s (two cores, other
work beside them).
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util import get_node_ip_address

import repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ORIGINS = """

import os as _os, sys as _sys
with open(_os.environ["ORIGINS"], "a") as _file:
    _file.write(f"{_os.getpid()} {__file__}\\n")
"""
"""Appended to modules of the copy: every process that imports one says which file it has taken."""


@dataclass(frozen=True)
class Head:
    """A cluster, and a copy of the repository to submit from.

    Attributes:
        python: of the cluster; everything but the package can be imported.
        environment: of the cluster and of who submits.
    """

    url: str
    python: Path
    clone: Path
    origins: Path
    environment: dict[str, str]

    @property
    def client(self) -> JobSubmissionClient:
        """Ray's own client, with the cluster's token."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        return JobSubmissionClient(self.url, headers={"Authorization": f"Bearer {token}"})

    def submit(self, *command: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        """A job, as the README submits it."""
        submit = ["job", "submit", "--address", self.url, "--runtime-env", "clusters/runtime_env.yaml"]
        return self.ray(*submit, *([] if wait else ["--no-wait"]), "--", *command)

    def train(self, *arguments: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        """The command of the README."""
        command = ["env", "PIXELCONTRAST_COMMIT=0123abc", "python", "experiments/small_search.py"]
        return self.submit(*command, *arguments, wait=wait)

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), "-m", "ray.scripts.scripts", *arguments]
        return subprocess.run(
            command, cwd=self.clone, env=self.environment, capture_output=True, text=True, check=False
        )

    def imported_from(self) -> dict[str, set[str]]:
        """Module → files that processes took it from, since the last call."""
        found: dict[str, set[str]] = {}
        for line in self.origins.read_text().splitlines():
            _, path = line.split(" ", 1)
            found.setdefault("/".join(Path(path).parts[-2:]), set()).add(path)
        self.origins.unlink()
        return found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Two nodes, as the files in clusters/ start them: a head without CPUs, and a worker; gone afterwards."""
    folder = tmp_path_factory.mktemp("head")
    clone, token = folder / "clone", folder / "token"
    repository.copy_to(clone)
    (clone / "experiments/small_search.py").write_text(
        Path(__file__).with_name("small_search.py").read_text()
    )
    package = clone / "platform/pixelcontrast"
    for module in ("__init__.py", "cli/experiment.py", "cluster/train/worker.py", "cluster/tune/trial.py"):
        (package / module).write_text((package / module).read_text() + ORIGINS)
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    python = venv_without_the_package(folder / "venv")
    port, dashboard_port = free_ports(2)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("RAY", "PYTHON"))}
    environment |= {
        "PATH": f"{python.parent}:{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "ORIGINS": str(folder / "origins"),
    }
    with ExitStack() as stack:
        # Each has its own folder, as on machines of their own: where two share one, the second to unpack a
        # job's files takes away those of the first.
        folders = [tempfile.TemporaryDirectory(prefix=f"pc-{node}-", dir="/tmp") for node in ("head", "work")]
        temporary, other = [stack.enter_context(each) for each in folders]
        url = f"http://127.0.0.1:{dashboard_port}"
        options = ["--port", str(port), "--temp-dir", temporary, "--num-cpus", "0"]
        options += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
        start(stack, folder / "head.log", python, environment, "--head", *options)
        found = Head(url, python, clone, folder / "origins", environment)
        wait_for(lambda: found.ray("job", "list", "--address", url).returncode == 0, folder / "head.log")
        options = ["--address", f"{get_node_ip_address()}:{port}", "--num-cpus", "2", "--temp-dir", other]
        start(stack, folder / "worker.log", python, environment, *options)
        wait_for(lambda: "Ray runtime started" in (folder / "worker.log").read_text(), folder / "worker.log")
        yield found


def start(stack: ExitStack, log: Path, python: Path, environment: dict[str, str], *options: str) -> None:
    """A node, until the stack closes."""
    command = [str(python), "-m", "ray.scripts.scripts", "start", "--block", *options]
    command += ["--dashboard-agent-listen-port", "0", "--object-store-memory", str(128 * 2**20)]
    output = stack.enter_context(log.open("w"))
    process = subprocess.Popen(
        command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    stack.callback(stop, process)


def wait_for(condition: Callable[[], bool], log: Path, seconds: float = 180) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.5)


def venv_without_the_package(folder: Path) -> Path:
    """An interpreter with this one's packages, but for those that are installed by a .pth file, as ours."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "all.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin/python"
    command = [str(python), "-c", "import torch, ray, pixelcontrast"]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)
    assert "No module named 'pixelcontrast'" in done.stderr
    return python


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def stop(process: subprocess.Popen) -> None:
    """End the head as ``ray start --block`` wants it, and see that nothing is left."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(started, timeout=15)
    for left in alive:  # Ray's agents stay for up to a minute
        left.kill()
    assert not psutil.wait_procs(alive, timeout=10)[1]


def places(scenes: Path, storage: Path) -> list[str]:
    return ["--data.root", str(scenes), "--run.storage", str(storage)]


def node_of(path: str) -> str:
    """Whose copy of the job's package a file is in; fails for a file that no job has brought."""
    found = re.match(
        r"/tmp/pc-(\w+)-\w+/.*/runtime_resources/py_modules_files/_ray_pkg_\w+/pixelcontrast/", path
    )
    assert found, path
    return found[1]


def test_driver_and_workers_take_the_package_from_the_job(head: Head, scenes: Path, tmp_path: Path):
    done = head.train(*places(scenes, tmp_path), "--optim.steps", "6", "--run.workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 6/6  CE " in done.stdout
    result = json.loads((tmp_path / "small/result.json").read_text())
    assert 0 <= result["miou"] <= 1
    assert result["provenance"]["git"] == "0123abc"
    found = head.imported_from()
    assert {node_of(path) for path in found["cli/experiment.py"]} == {"head"}
    assert "work" in {node_of(path) for path in found["train/worker.py"]}
    assert {node_of(path) for path in set.union(*found.values())} == {"head", "work"}


def test_trials_take_the_package_from_the_job(head: Head, scenes: Path, tmp_path: Path):
    done = head.train("search", "--trials", "2", *places(scenes, tmp_path), "--optim.steps", "3")
    assert done.returncode == 0, done.stdout + done.stderr  # though the second one diverges
    assert "report   " in done.stdout
    results = [json.loads(path.read_text()) for path in (tmp_path / "small-search").glob("*/result.json")]
    assert len(list((tmp_path / "small-search").glob("*/experiment.json"))) == 2
    assert {result["provenance"]["git"] for result in results} == {"0123abc"}
    found = head.imported_from()
    assert {node_of(path) for path in found["tune/trial.py"]} <= {"head", "work"}  # needs no CPU
    assert {node_of(path) for path in set.union(*found.values())} == {"head", "work"}


def test_what_is_missing_on_the_cluster_is_said_and_the_job_has_failed(
    head: Head, scenes: Path, tmp_path: Path
):
    cases = [
        (["--data.root", str(scenes)], 2, "run.storage is 'runs', a relative path. This is a job"),
        (places(tmp_path / "nowhere", tmp_path), 2, "nowhere: no such folder"),
        (places(scenes, Path("/proc/runs")), 2, "run.storage: /proc/runs/small cannot be written"),
        (
            [*places(scenes, tmp_path), "--run.cpus-per-worker", "3"],
            1,
            "2 nodes with 0 CPUs; 2 CPUs, where none would fit",
        ),
    ]
    for arguments, status, message in cases:
        done = head.train(*arguments)
        assert done.returncode == 1
        assert message in done.stdout
        assert "Traceback" not in done.stdout
        (job,) = re.findall(r"Job '(raysubmit_\w+)' submitted", done.stdout)
        info = head.client.get_job_info(job)
        assert (info.status, info.driver_exit_code) == (JobStatus.FAILED, status)


def test_the_doctor_as_a_job_looks_at_every_node(head: Head, scenes: Path, tmp_path: Path):
    command = ["python", "-m", "pixelcontrast", "doctor", "--layout", "cityscapes"]
    asked = ["--storage", str(tmp_path), "--data", str(scenes), "--workers", "2"]
    well = head.submit(*command, *asked)
    assert well.returncode == 0, well.stdout + well.stderr
    assert "2 alive, 2 of 2 CPUs free" in well.stdout
    assert "is reachable from 2 nodes" in " ".join(well.stdout.split())
    assert list(tmp_path.iterdir()) == []
    ill = head.submit(*command, *asked[:-1], "3")
    assert ill.returncode == 1
    assert "where 2 would fit" in " ".join(ill.stdout.split())


def test_a_stopped_job_is_given_time_to_end(head: Head):
    (head.clone / "experiments/late.sh").write_text(
        "trap 'sleep 6; echo ended by itself; exit' TERM; echo began; while true; do sleep 0.1; done"
    )
    submitted = head.submit("sh", "experiments/late.sh", wait=False)
    (job,) = re.findall(r"Job '(raysubmit_\w+)' submitted", submitted.stdout)
    give_up = time.monotonic() + 60
    while "began" not in head.client.get_job_logs(job):
        assert time.monotonic() < give_up
        time.sleep(0.2)
    head.client.stop_job(job)
    while head.client.get_job_status(job) != JobStatus.STOPPED:
        assert time.monotonic() < give_up
        time.sleep(0.2)
    assert "ended by itself" in head.client.get_job_logs(job)


def test_a_stopped_training_leaves_a_checkpoint_and_says_how_to_go_on(
    head: Head, scenes: Path, tmp_path: Path
):
    arguments = [*places(scenes, tmp_path), "--optim.steps", "100000", "--run.eval-interval", "100000"]
    done = head.train(*arguments, wait=False)
    (job,) = re.findall(r"Job '(raysubmit_\w+)' submitted", done.stdout)
    give_up = time.monotonic() + 180
    while not list(tmp_path.glob("small/checkpoints/step-*")):
        assert time.monotonic() < give_up, head.ray("job", "logs", "--address", head.url, job).stdout
        time.sleep(0.5)
    stopped = head.ray("job", "stop", "--address", head.url, job)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    logs = head.ray("job", "logs", "--address", head.url, job).stdout
    (step,) = re.findall(r"Stopped with a checkpoint at step (\d+)\. Rerun the command to resume", logs)
    assert (tmp_path / f"small/checkpoints/step-{int(step):08d}/manifest.json").is_file()
    importers = [int(line.split()[0]) for line in head.origins.read_text().splitlines()]
    left = [psutil.Process(pid).name() for pid in importers if psutil.pid_exists(pid)]
    assert not [name for name in left if "RayTrainWorker" in name]
