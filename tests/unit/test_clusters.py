"""The files in clusters/, without a cloud: their schemas and our rules, each of which can fail."""

import copy
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

import cluster_schemas
import strict_yaml
from cluster_rules import AWS, GCP, LOCAL, RAY_VERSION, ROOT, Rule
from kuberay_rules import KUBERAY
from pixelcontrast.cluster.job import check_job_paths

CLUSTERS = ROOT / "clusters"
RULES: dict[str, list[Rule]] = {
    "local.yaml": LOCAL,
    "aws.yaml": AWS,
    "gcp.yaml": GCP,
    "kuberay-cluster.yaml": KUBERAY,
    "kuberay-job.yaml": KUBERAY,
}
GONE = object()
HEAD, GPU = "available_node_types head node_config", "available_node_types gpu node_config"
CLUSTER_POD, JOB_POD = (
    "2 spec headGroupSpec template spec",
    "2 spec rayClusterSpec headGroupSpec template spec",
)
GROUP = "2 spec workerGroupSpecs 0"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----"
BREAKING: list[tuple[str, str, str, Any]] = [
    # file, rule, where, what is put there
    ("local.yaml", "nothing_is_open_to_the_world", "docker run_options 0", "--dns 0.0.0.0"),
    ("aws.yaml", "nothing_is_open_to_the_world", "provider security_group", {"CidrIp": "0.0.0.0/0"}),
    (
        "gcp.yaml",
        "nothing_is_open_to_the_world",
        "head_start_ray_commands 1",
        "ray start --dashboard-host=0.0.0.0",
    ),
    (
        "kuberay-cluster.yaml",
        "nothing_is_open_to_the_world",
        "1 spec ingress 0 from 0",
        {"ipBlock": {"cidr": "::/0"}},
    ),
    ("local.yaml", "no_secret_is_written_down", "docker run_options 0", "--env RAY_AUTH_TOKEN=1234"),
    ("aws.yaml", "no_secret_is_written_down", "setup_commands 0", "echo AKIA0123456789ABCDEF"),
    ("gcp.yaml", "no_secret_is_written_down", "setup_commands 0", f"echo {KEY}"),
    ("kuberay-job.yaml", "no_secret_is_written_down", "2 spec entrypoint", f"python {'0a' * 32}"),
    ("local.yaml", "ray_accepts_it", "provider head_ip", GONE),
    ("local.yaml", "ray_accepts_it", "idle_minutes", 5),
    ("aws.yaml", "ray_accepts_it", "head_node_type", "master"),
    ("aws.yaml", "ray_accepts_it", "available_node_types gpu resources", GONE),
    ("gcp.yaml", "ray_accepts_it", "available_node_types gpu min_worker", 0),
    ("gcp.yaml", "ray_accepts_it", "provider type", GONE),
    ("local.yaml", "ray_starts_with_a_token", "file_mounts", {}),
    ("aws.yaml", "ray_starts_with_a_token", "setup_commands 0", "true"),
    (
        "gcp.yaml",
        "ray_starts_with_a_token",
        "worker_start_ray_commands 1",
        "ray start --address=$RAY_HEAD_IP:6379",
    ),
    ("local.yaml", "the_dashboard_listens_on_loopback", "head_start_ray_commands 1", "ray start --head"),
    ("aws.yaml", "the_image_has_the_tested_ray", "docker image", "rayproject/ray:latest"),
    ("gcp.yaml", "the_image_has_the_tested_ray", "docker image", GONE),
    ("gcp.yaml", "the_image_has_the_tested_ray", "head_setup_commands", ["pip install ray"]),
    ("aws.yaml", "containers_have_no_special_rights", "docker run_options 0", "--privileged"),
    ("aws.yaml", "nodes_are_private_and_deleted", "provider use_internal_ips", GONE),
    ("aws.yaml", "nodes_are_private_and_deleted", "provider cache_stopped_nodes", True),
    ("gcp.yaml", "nodes_are_private_and_deleted", "auth ssh_proxy_command", GONE),
    ("aws.yaml", "workers_come_and_go", "available_node_types gpu min_workers", 1),
    ("gcp.yaml", "workers_come_and_go", "available_node_types head resources", {}),
    ("aws.yaml", "ec2_knows_every_field", f"{GPU} InstanceMarketOption", {}),
    ("aws.yaml", "ec2_knows_every_field", f"{GPU} InstanceType", "g6.13xlarge"),
    ("aws.yaml", "ec2_knows_every_field", f"{HEAD} MetadataOptions HttpTokens", "requird"),
    ("aws.yaml", "ec2_knows_every_field", f"{HEAD} BlockDeviceMappings 0 Ebs VolumeSize", "128"),
    ("aws.yaml", "ec2_knows_every_field", f"{HEAD} BlockDeviceMappings 0 Ebs Encryption", True),
    ("aws.yaml", "ec2_metadata_needs_a_session", f"{GPU} MetadataOptions HttpTokens", "optional"),
    ("aws.yaml", "ec2_metadata_needs_a_session", f"{HEAD} MetadataOptions", GONE),
    ("aws.yaml", "ec2_disks_are_encrypted_and_go", f"{GPU} BlockDeviceMappings 0 Ebs Encrypted", False),
    ("aws.yaml", "ec2_disks_are_encrypted_and_go", f"{HEAD} BlockDeviceMappings", GONE),
    ("aws.yaml", "ec2_leaves_nothing_to_ray_s_defaults", f"{GPU} SecurityGroupIds", GONE),
    ("aws.yaml", "ec2_leaves_nothing_to_ray_s_defaults", f"{HEAD} IamInstanceProfile", GONE),
    ("aws.yaml", "ec2_leaves_nothing_to_ray_s_defaults", "provider security_group", {"GroupName": "ray"}),
    ("aws.yaml", "ec2_spot_is_for_workers", f"{HEAD} InstanceMarketOptions", {"MarketType": "spot"}),
    ("aws.yaml", "ec2_spot_is_for_workers", f"{GPU} InstanceMarketOptions", GONE),
    ("gcp.yaml", "gce_knows_every_field", f"{GPU} guestAccelerator", []),
    ("gcp.yaml", "gce_knows_every_field", f"{GPU} scheduling provisioningModel", "PREEMPTIBLE"),
    ("gcp.yaml", "gce_knows_every_field", f"{HEAD} disks 0 initializeParams diskSizeGB", "128"),
    ("gcp.yaml", "gce_knows_every_field", f"{HEAD} disks 0 boot", "yes"),
    ("gcp.yaml", "gce_has_no_public_address", f"{GPU} networkInterfaces 0 accessConfigs", [{}]),
    ("gcp.yaml", "gce_has_no_public_address", f"{HEAD} networkInterfaces", GONE),
    ("gcp.yaml", "gce_disks_go", f"{GPU} disks 0 autoDelete", GONE),
    ("gcp.yaml", "gce_boots_are_watched", f"{HEAD} shieldedInstanceConfig", GONE),
    ("gcp.yaml", "gce_spot_is_for_workers", f"{HEAD} scheduling provisioningModel", "SPOT"),
    ("gcp.yaml", "gce_spot_is_for_workers", f"{GPU} scheduling provisioningModel", "STANDARD"),
    ("gcp.yaml", "gce_spot_is_for_workers", f"{GPU} scheduling onHostMaintenance", "MIGRATE"),
    ("gcp.yaml", "gce_workers_say_what_they_have", "available_node_types gpu resources", {"CPU": 48}),
    ("gcp.yaml", "gce_workers_say_what_they_have", f"{GPU} serviceAccounts", GONE),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", "2 spec headGroupSpec rayStartParam", {}),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", f"{GROUP} minReplicas", "0"),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", f"{GROUP} groupName", GONE),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", "2 spec authOptions mode", "tokens"),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", f"{CLUSTER_POD} containers 0 resource", {}),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", "1 spec ingress 0 form", []),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", "1 spec podSelector matchLabel", {}),
    ("kuberay-cluster.yaml", "kuberay_knows_every_field", "0 kind", "Role"),
    ("kuberay-job.yaml", "kuberay_knows_every_field", "2 spec entryPoint", "python"),
    (
        "kuberay-job.yaml",
        "kuberay_knows_every_field",
        f"{JOB_POD} volumes 0 persistentVolumeClaim claim",
        "data",
    ),
    ("kuberay-cluster.yaml", "kuberay_has_the_tested_ray", "2 spec rayVersion", "2.59.0"),
    ("kuberay-cluster.yaml", "kuberay_has_the_tested_ray", f"{CLUSTER_POD} containers 0 image", "ray:2.60.0"),
    ("kuberay-cluster.yaml", "kuberay_has_the_tested_ray", "2 spec autoscalerOptions image", "ray:2.60.0"),
    ("kuberay-job.yaml", "kuberay_has_the_tested_ray", f"{JOB_POD} containers 0 image", "ray:latest"),
    ("kuberay-cluster.yaml", "kuberay_makes_a_token", "2 spec authOptions", GONE),
    ("kuberay-job.yaml", "kuberay_makes_a_token", "2 spec rayClusterSpec authOptions mode", "disabled"),
    ("kuberay-cluster.yaml", "kuberay_is_inside_only", "2 spec headGroupSpec serviceType", "LoadBalancer"),
    ("kuberay-cluster.yaml", "kuberay_is_inside_only", "2 spec headGroupSpec enableIngress", True),
    ("kuberay-cluster.yaml", "kuberay_is_inside_only", f"{GROUP} template metadata labels", {}),
    ("kuberay-cluster.yaml", "kuberay_is_inside_only", "1 spec policyTypes", ["Egress"]),
    ("kuberay-job.yaml", "kuberay_is_inside_only", "1 spec ingress 0", {}),
    ("kuberay-job.yaml", "kuberay_is_inside_only", "2 spec submitterPodTemplate metadata", {}),
    (
        "kuberay-cluster.yaml",
        "pods_have_no_special_rights",
        f"{CLUSTER_POD} securityContext runAsNonRoot",
        GONE,
    ),
    ("kuberay-cluster.yaml", "pods_have_no_special_rights", f"{CLUSTER_POD} hostNetwork", True),
    (
        "kuberay-cluster.yaml",
        "pods_have_no_special_rights",
        f"{CLUSTER_POD} volumes 0",
        {"hostPath": {"path": "/"}},
    ),
    (
        "kuberay-cluster.yaml",
        "pods_have_no_special_rights",
        f"{CLUSTER_POD} containers 0 securityContext",
        GONE,
    ),
    (
        "kuberay-cluster.yaml",
        "pods_have_no_special_rights",
        f"{CLUSTER_POD} containers 0 env",
        [{"value": "x"}],
    ),
    (
        "kuberay-job.yaml",
        "pods_have_no_special_rights",
        f"{JOB_POD} containers 0 securityContext capabilities",
        {},
    ),
    (
        "kuberay-cluster.yaml",
        "ray_s_containers_have_limits",
        f"{CLUSTER_POD} containers 0 resources limits",
        {},
    ),
    ("kuberay-cluster.yaml", "kuberay_spot_is_for_workers", f"{CLUSTER_POD} affinity", GONE),
    ("kuberay-cluster.yaml", "kuberay_spot_is_for_workers", f"{GROUP} template spec nodeSelector", GONE),
    (
        "kuberay-job.yaml",
        "kuberay_spot_is_for_workers",
        "2 spec rayClusterSpec headGroupSpec rayStartParams",
        {},
    ),
    ("kuberay-job.yaml", "a_job_s_cluster_goes_with_it", "2 spec shutdownAfterJobFinishes", False),
    ("kuberay-job.yaml", "a_job_s_cluster_goes_with_it", "2 spec activeDeadlineSeconds", GONE),
]


def content(name: str) -> Any:
    documents = strict_yaml.load_all((CLUSTERS / name).read_text())
    return documents if name.startswith("kuberay") else documents[0]


def broken(config: Any, where: str, value: Any) -> Any:
    """A copy with one value changed or, for ``GONE``, without it."""
    changed = copy.deepcopy(config)
    node, *keys = changed, *(int(key) if key.isdecimal() else key for key in where.split())
    for key in keys[:-1]:
        node = node[key]
    if value is GONE:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return changed


def skip_without_definitions(rule: str) -> None:
    if rule == "kuberay_knows_every_field" and cluster_schemas.kuberay_definitions() is None:
        pytest.skip(f"{cluster_schemas.KUBERAY_CRDS} names no folder of KubeRay's definitions")


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for name, rules in RULES.items() for rule in rules],
    ids=lambda it: it.__name__ if callable(it) else it,
)
def test_a_file_keeps_to_a_rule(name: str, rule: Rule) -> None:
    skip_without_definitions(rule.__name__)
    assert list(rule(content(name))) == []


@pytest.mark.parametrize(("name", "rule", "where", "value"), BREAKING, ids=lambda it: str(it)[:60])
def test_a_rule_sees_what_breaks_it(name: str, rule: str, where: str, value: Any) -> None:
    skip_without_definitions(rule)
    (check,) = [each for each in RULES[name] if each.__name__ == rule]
    assert list(check(broken(content(name), where, value)))


def test_every_rule_has_been_broken() -> None:
    assert {rule.__name__ for rules in RULES.values() for rule in rules} == {rule for _, rule, *_ in BREAKING}


def test_every_file_is_tested() -> None:
    tested = RULES.keys() | {"README.md", "runtime_env.yaml", "slurm.sbatch", "Dockerfile"}
    assert {path.name for path in CLUSTERS.iterdir()} == tested


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="the key 'b' is there twice"):
        strict_yaml.load_all("a: {b: 1, c: 2, b: 3}")
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        strict_yaml.load_all("!!python/object/apply:os.system ['true']")


@pytest.mark.parametrize("name", [*RULES, "runtime_env.yaml"])
def test_every_field_has_a_comment(name: str) -> None:
    """Of the first two levels, a comment above it or above its brothers; of a resource, those of its spec."""
    depth = r"(  |    )" if name.startswith("kuberay") else r"(|  )"
    lines = (CLUSTERS / name).read_text().splitlines()
    bare = []
    for above, line in zip(["", *lines], lines, strict=False):
        field = re.match(rf"{depth}(?P<key>[A-Za-z_]\w*):( |$)", line)
        if field and not above.lstrip().startswith("#"):
            bare.append(line)
    kinds = ("metadata:", "name:", "replicas:", "maxReplicas:", "spec:", "annotations:", "matchLabels:")
    assert not [line for line in bare if not line.strip().startswith(kinds)]


def test_the_job_s_command_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are read by the experiment's own file, and its paths are none that a job may not have."""
    from pixelcontrast import parse

    spec = content("kuberay-job.yaml")[-1]["spec"]
    python, file, *options = shlex.split(spec["entrypoint"])
    assert python == "python"
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    experiment = parse(__import__(Path(file).stem).EXPERIMENT, args=options)
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    check_job_paths(experiment)
    assert "://" in experiment.run.storage
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert experiment.run.workers.min == group["replicas"]
    assert experiment.run.cpus_per_worker <= int(limits["cpu"])


def test_ray_reads_the_runtime_environments() -> None:
    job = content("kuberay-job.yaml")[-1]["spec"]["runtimeEnvYAML"]
    (inner,) = strict_yaml.load_all(job)
    outer = strict_yaml.load(CLUSTERS / "runtime_env.yaml")
    assert inner == {"env_vars": outer["env_vars"]}
    for environment in (inner, {**outer, "working_dir": str(ROOT), "py_modules": []}):
        assert RuntimeEnv(**environment, _validate=True)["env_vars"] == outer["env_vars"]


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_data_are_staged_once(tmp_path: Path, name: str) -> None:
    """The command as it is, from a folder instead of a bucket."""
    staging = content(name)["setup_commands"][-1]
    bucket, disk = tmp_path / "bucket", tmp_path / "data"
    (bucket / "cityscapes").mkdir(parents=True)
    (bucket / "cityscapes/image.png").write_bytes(b"image")
    disk.mkdir()
    command = re.sub(r"(s3|gs)://[^\"]+", f"file://{bucket}", staging).replace("/data", str(disk))
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert (disk / "cityscapes/image.png").read_bytes() == b"image"
    (disk / "cityscapes/image.png").unlink()
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert not (disk / "cityscapes/image.png").exists()


def run_sbatch(folder: Path, *arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
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
    slurm |= {"CPUS_PER_TASK": "32", "GPUS_PER_NODE": "4"}
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
    """Of a Dockerfile: (word, rest), continued lines joined."""
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
    wanted = [*project["dependencies"], *project["optional-dependencies"]["clusters"]]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted
    assert f"ray=={RAY_VERSION}" in (tmp_path / "constraints.txt").read_text()
    assert any(re.match(r"ray\[.*>=2\.60,<2\.61", each) for each in wanted)


def test_the_readme_has_every_file_and_no_claim_of_a_launch() -> None:
    text = (CLUSTERS / "README.md").read_text()
    assert RAY_VERSION in text
    for path in CLUSTERS.iterdir():
        assert path.name == "README.md" or re.search(rf"^\| `{path.name}` \|", text, re.MULTILINE)
    for name in RULES:
        assert re.search(rf"^\| `{name}` .* validated offline, not launched \|$", text, re.MULTILINE)
