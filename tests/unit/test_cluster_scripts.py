"""The batch script and the image's Dockerfile, as far as they go without Slurm and without Docker."""

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ray.autoscaler._private import command_runner
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from cluster_rules import RAY_VERSION, ROOT

CLUSTERS = ROOT / "clusters"


def run_sbatch(
    folder: Path, *arguments: str, script: str = "", gpus: str | None = "4"
) -> subprocess.CompletedProcess[str]:
    """The batch script with stand-ins for Slurm's commands: two host names, and srun that shows its own."""
    for name, text in (
        ("scontrol", "echo node7; echo node8"),
        ("srun", 'printf "%s\\n" "$@"; env | grep ^RAY'),
    ):
        command = folder / name
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SUBMIT_DIR": str(folder), "JOB_ID": "123456", "JOB_NODELIST": "node[7-8]", "JOB_NUM_NODES": "2"}
    slurm |= {"CPUS_PER_TASK": "32"} | ({} if gpus is None else {"GPUS_PER_NODE": gpus})
    environment = {"PATH": path, "HOME": str(folder)} | {
        f"SLURM_{name}": text for name, text in slurm.items()
    }
    command = ["bash", script or str(CLUSTERS / "slurm.sbatch"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_batch_script_starts_ray_on_all_nodes_with_a_token(tmp_path: Path) -> None:
    done = run_sbatch(tmp_path, "experiments/cityscapes.py", "--run.name", "two words")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {
        "RAY_AUTH_MODE=token",
        "RAY_ADDRESS=node7:23456",
        "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300",
    } <= set(lines)
    assert "--cpus-per-task=32" in lines[: lines.index("ray")], "srun does not take it over from sbatch"
    shown = lines[lines.index("symmetric-run") + 1 :]
    separator = shown.index("--")
    assert shown[separator + 1 : separator + 5] == [
        "python",
        "experiments/cityscapes.py",
        "--run.name",
        "two words",
    ]
    assert shown[:4] == ["--address", "node7:23456", "--min-nodes", "2"]
    started = curate_and_validate_ray_start_args(shown[:separator])
    options = start.make_context("ray start", [*started, "--head"]).params
    assert (options["num_cpus"], options["num_gpus"], options["dashboard_host"]) == (32, 4, "127.0.0.1")
    token = tmp_path / ".ray/auth_token"
    assert len(token.read_text()) >= 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in done.stdout + done.stderr
    token.chmod(0o644)
    before = token.read_text()
    assert run_sbatch(tmp_path, "experiments/cityscapes.py").returncode == 0
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == (before, 0o600)


@pytest.mark.parametrize(("gpus", "number"), [("4", "4"), ("a100:4", "4"), (None, "0")])
def test_the_batch_script_counts_gpus_of_any_type(tmp_path: Path, gpus: str | None, number: str) -> None:
    """Slurm hands on --gpus-per-node as it was written, and nothing without it."""
    lines = run_sbatch(tmp_path, "experiments/cityscapes.py", gpus=gpus).stdout.splitlines()
    assert lines[lines.index("--num-gpus") + 1] == number


def test_the_batch_script_wants_an_experiment(tmp_path: Path) -> None:
    done = run_sbatch(tmp_path)
    assert (done.returncode, "usage: sbatch" in done.stderr) == (2, True)


def test_slurm_s_directives_come_before_the_commands() -> None:
    """Slurm reads them up to the first command, and ignores later ones without a word."""
    lines = [line for line in (CLUSTERS / "slurm.sbatch").read_text().splitlines() if line]
    commands = [number for number, line in enumerate(lines) if not line.startswith("#")]
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert max(directives) < min(commands)
    options = {lines[number].split()[1].partition("=")[0] for number in directives}
    assert {"--exclusive", "--requeue", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"} <= options


@pytest.mark.parametrize(
    ("old", "new", "finds"),
    [("", "", None), ('"$@"', "$@", "SC2068"), ("set -euo pipefail", "if true; then", "SC1")],
)
def test_shellcheck_and_bash_read_the_batch_script(
    tmp_path: Path, old: str, new: str, finds: str | None
) -> None:
    script = tmp_path / "slurm.sbatch"
    script.write_text((CLUSTERS / "slurm.sbatch").read_text().replace(old, new))
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    checked = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode == 0) == (finds is None), checked.stdout
    assert finds is None or finds in checked.stdout
    parsed = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False)
    assert (parsed.returncode == 0) == (finds != "SC1")


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest) of each instruction in a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_image_is_pinned_runs_as_a_user_and_wants_a_token() -> None:
    found = instructions((CLUSTERS / "Dockerfile").read_text())
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    assert bases == ["python:3.11-slim-bookworm", "cluster"]
    assert [rest for word, rest in found if word == "USER"] == ["ray"]
    environment = " ".join(rest for word, rest in found if word == "ENV")
    assert {"RAY_AUTH_MODE=token", "HOME=/home/ray", "PYTHONPATH=/app/platform"} <= set(environment.split())
    (install,) = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    assert "-c /tmp/build/constraints.txt" in install
    for word, rest in found:
        if word in ("COPY", "ADD"):
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)


def test_the_image_has_the_programs_that_ray_s_autoscaler_calls() -> None:
    """It runs in the head's container, and reaches the workers from there."""
    packages, calls = {"ssh": "openssh-client", "rsync": "rsync"}, Path(command_runner.__file__).read_text()
    assert all(f'["{program}"' in calls for program in packages)
    found = instructions((CLUSTERS / "Dockerfile").read_text())
    (install,) = [rest for word, rest in found if word == "RUN" and "apt-get install" in rest]
    assert set(packages.values()) <= set(install.split())


def test_the_image_installs_what_the_project_asks_for(tmp_path: Path) -> None:
    """Run as the Dockerfile has it, with pip resolving against what is installed here."""
    (run,) = [
        rest
        for word, rest in instructions((CLUSTERS / "Dockerfile").read_text())
        if "requirements.txt" in rest
    ]
    listing, _, _ = run.replace("/tmp/build", str(tmp_path)).partition("&&")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", listing], env=environment, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["platform"], *extras["clusters"]]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted
    assert f"ray=={RAY_VERSION}" in (tmp_path / "constraints.txt").read_text()
    assert any(re.match(r"ray\[.*>=2\.60,<2\.61", each) for each in wanted)
