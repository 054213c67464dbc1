"""The files in clusters/, without a cloud: their schemas and our rules, each of which can fail."""

import copy
import os
import re
import shlex
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.runtime_env import RuntimeEnv

import cluster_schemas
import strict_yaml
from cluster_rules import AWS, GCP, LOCAL, RAY_VERSION, ROOT, Rule
from kuberay_rules import KUBERAY
from pixelcontrast.cluster.paths import reachable_paths

CLUSTERS = ROOT / "clusters"
RULES: dict[str, list[Rule]] = {
    "local.yaml": LOCAL,
    "aws.yaml": AWS,
    "gcp.yaml": GCP,
    "kuberay-cluster.yaml": KUBERAY,
    "kuberay-job.yaml": KUBERAY,
}


class _Gone(Enum):
    GONE = "gone"


GONE = _Gone.GONE
HEAD, GPU = "available_node_types head node_config", "available_node_types gpu node_config"
CLUSTER_POD, JOB_POD = (
    "2 spec headGroupSpec template spec",
    "2 spec rayClusterSpec headGroupSpec template spec",
)
GROUP = "2 spec workerGroupSpecs 0"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----"
BREAKING: dict[str, list[tuple[str, str, Any]]] = {  # file → (rule, where, what is put there)
    "local.yaml": [
        ("nothing_is_open_to_the_world", "docker run_options 0", "--dns 0.0.0.0"),
        ("no_secret_is_written_down", "docker run_options 0", "--env RAY_AUTH_TOKEN=1234"),
        ("ray_accepts_it", "provider head_ip", GONE),
        ("ray_accepts_it", "idle_minutes", 5),
        ("ray_starts_with_a_token", "file_mounts", {}),
        ("the_dashboard_listens_on_loopback", "head_start_ray_commands 1", "ray start --head"),
    ],
    "aws.yaml": [
        ("nothing_is_open_to_the_world", "provider security_group", {"CidrIp": "0.0.0.0/0"}),
        ("no_secret_is_written_down", "setup_commands 0", "echo AKIA0123456789ABCDEF"),
        ("ray_accepts_it", "head_node_type", "master"),
        ("ray_accepts_it", "available_node_types gpu resources", GONE),
        ("ray_starts_with_a_token", "setup_commands 0", "true"),
        ("the_image_has_the_tested_ray", "docker image", "rayproject/ray:latest"),
        ("containers_have_no_special_rights", "docker run_options 0", "--privileged"),
        ("nodes_are_private_and_deleted", "provider use_internal_ips", GONE),
        ("nodes_are_private_and_deleted", "provider cache_stopped_nodes", True),
        ("workers_come_and_go", "available_node_types gpu min_workers", 1),
        ("ec2_knows_every_field", f"{GPU} InstanceMarketOption", {}),
        ("ec2_knows_every_field", f"{GPU} InstanceType", "g6.13xlarge"),
        ("ec2_knows_every_field", f"{HEAD} MetadataOptions HttpTokens", "requird"),
        ("ec2_knows_every_field", f"{HEAD} BlockDeviceMappings 0 Ebs VolumeSize", "128"),
        ("ec2_knows_every_field", f"{HEAD} BlockDeviceMappings 0 Ebs Encryption", True),
        ("ec2_metadata_needs_a_session", f"{GPU} MetadataOptions HttpTokens", "optional"),
        ("ec2_metadata_needs_a_session", f"{HEAD} MetadataOptions", GONE),
        ("ec2_disks_are_encrypted_and_go", f"{GPU} BlockDeviceMappings 0 Ebs Encrypted", False),
        ("ec2_disks_are_encrypted_and_go", f"{HEAD} BlockDeviceMappings", GONE),
        ("ec2_leaves_nothing_to_ray_s_defaults", f"{GPU} SecurityGroupIds", GONE),
        ("ec2_leaves_nothing_to_ray_s_defaults", f"{HEAD} IamInstanceProfile", GONE),
        ("ec2_leaves_nothing_to_ray_s_defaults", "provider security_group", {"GroupName": "ray"}),
        ("ec2_spot_is_for_workers", f"{HEAD} InstanceMarketOptions", {"MarketType": "spot"}),
        ("ec2_spot_is_for_workers", f"{GPU} InstanceMarketOptions", GONE),
    ],
    "gcp.yaml": [
        ("nothing_is_open_to_the_world", "head_start_ray_commands 1", "ray start --dashboard-host=0.0.0.0"),
        ("no_secret_is_written_down", "setup_commands 0", f"echo {KEY}"),
        ("ray_accepts_it", "available_node_types gpu min_worker", 0),
        ("ray_accepts_it", "provider type", GONE),
        ("ray_starts_with_a_token", "worker_start_ray_commands 1", "ray start --address=$RAY_HEAD_IP:6379"),
        ("the_image_has_the_tested_ray", "docker image", GONE),
        ("the_image_has_the_tested_ray", "head_setup_commands", ["pip install ray"]),
        ("nodes_are_private_and_deleted", "auth ssh_proxy_command", GONE),
        ("workers_come_and_go", "available_node_types head resources", {}),
        ("gce_knows_every_field", f"{GPU} guestAccelerator", []),
        ("gce_knows_every_field", f"{GPU} scheduling provisioningModel", "PREEMPTIBLE"),
        ("gce_knows_every_field", f"{HEAD} disks 0 initializeParams diskSizeGB", "128"),
        ("gce_knows_every_field", f"{HEAD} disks 0 boot", "yes"),
        ("gce_has_no_public_address", f"{GPU} networkInterfaces 0 accessConfigs", [{}]),
        ("gce_has_no_public_address", f"{HEAD} networkInterfaces", GONE),
        ("gce_disks_go", f"{GPU} disks 0 autoDelete", GONE),
        ("gce_boots_are_watched", f"{HEAD} shieldedInstanceConfig", GONE),
        ("gce_spot_is_for_workers", f"{HEAD} scheduling provisioningModel", "SPOT"),
        ("gce_spot_is_for_workers", f"{GPU} scheduling provisioningModel", "STANDARD"),
        ("gce_spot_is_for_workers", f"{GPU} scheduling onHostMaintenance", "MIGRATE"),
        ("gce_workers_say_what_they_have", "available_node_types gpu resources", {"CPU": 48}),
        ("gce_workers_say_what_they_have", f"{GPU} serviceAccounts", GONE),
    ],
    "kuberay-cluster.yaml": [
        ("nothing_is_open_to_the_world", "1 spec ingress 0 from 0", {"ipBlock": {"cidr": "::/0"}}),
        ("kuberay_knows_every_field", "2 spec headGroupSpec rayStartParam", {}),
        ("kuberay_knows_every_field", f"{GROUP} minReplicas", "0"),
        ("kuberay_knows_every_field", f"{GROUP} groupName", GONE),
        ("kuberay_knows_every_field", "2 spec authOptions mode", "tokens"),
        ("kuberay_knows_every_field", f"{CLUSTER_POD} containers 0 resource", {}),
        ("kuberay_knows_every_field", "1 spec ingress 0 form", []),
        ("kuberay_knows_every_field", "1 spec podSelector matchLabel", {}),
        ("kuberay_knows_every_field", "0 kind", "Role"),
        ("kuberay_has_the_tested_ray", "2 spec rayVersion", "2.59.0"),
        ("kuberay_has_the_tested_ray", f"{CLUSTER_POD} containers 0 image", "ray:2.60.0"),
        ("kuberay_has_the_tested_ray", "2 spec autoscalerOptions image", "other:2.60.0"),
        ("kuberay_makes_a_token", "2 spec authOptions", GONE),
        ("kuberay_is_inside_only", "2 spec headGroupSpec serviceType", "LoadBalancer"),
        ("kuberay_is_inside_only", "2 spec headGroupSpec enableIngress", True),
        ("kuberay_is_inside_only", f"{GROUP} template metadata labels", {}),
        ("kuberay_is_inside_only", "1 spec policyTypes", ["Egress"]),
        ("pods_have_no_special_rights", f"{CLUSTER_POD} securityContext runAsNonRoot", GONE),
        ("pods_have_no_special_rights", f"{CLUSTER_POD} hostNetwork", True),
        ("pods_have_no_special_rights", f"{CLUSTER_POD} volumes 0", {"hostPath": {"path": "/"}}),
        ("pods_have_no_special_rights", f"{CLUSTER_POD} containers 0 securityContext", GONE),
        ("pods_have_no_special_rights", f"{CLUSTER_POD} containers 0 env", [{"value": "x"}]),
        ("ray_s_containers_have_limits", f"{CLUSTER_POD} containers 0 resources limits", {}),
        ("kuberay_spot_is_for_workers", f"{CLUSTER_POD} affinity", GONE),
        ("kuberay_spot_is_for_workers", f"{GROUP} template spec nodeSelector", GONE),
    ],
    "kuberay-job.yaml": [
        ("no_secret_is_written_down", "2 spec entrypoint", f"python {'0a' * 32}"),
        ("kuberay_knows_every_field", "2 spec entryPoint", "python"),
        ("kuberay_knows_every_field", f"{JOB_POD} volumes 0 persistentVolumeClaim claim", "data"),
        ("kuberay_has_the_tested_ray", f"{JOB_POD} containers 0 image", "ray:latest"),
        ("kuberay_makes_a_token", "2 spec rayClusterSpec authOptions mode", "disabled"),
        ("kuberay_is_inside_only", "1 spec ingress 0", {}),
        ("kuberay_is_inside_only", "2 spec submitterPodTemplate metadata", {}),
        ("pods_have_no_special_rights", f"{JOB_POD} containers 0 securityContext capabilities", {}),
        ("kuberay_spot_is_for_workers", "2 spec rayClusterSpec headGroupSpec rayStartParams", {}),
        ("a_job_s_cluster_goes_with_it", "2 spec shutdownAfterJobFinishes", False),
        ("a_job_s_cluster_goes_with_it", "2 spec activeDeadlineSeconds", GONE),
    ],
}


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


@pytest.mark.parametrize(
    ("name", "rule", "where", "value"),
    [(name, *case) for name, cases in BREAKING.items() for case in cases],
    ids=lambda it: str(it)[:60],
)
def test_a_rule_sees_what_breaks_it(name: str, rule: str, where: str, value: Any) -> None:
    skip_without_definitions(rule)
    (check,) = [each for each in RULES[name] if each.__name__ == rule]
    assert list(check(broken(content(name), where, value)))


def test_every_rule_has_been_broken() -> None:
    assert {rule.__name__ for rules in RULES.values() for rule in rules} == {
        rule for cases in BREAKING.values() for rule, *_ in cases
    }


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
    """Each field of the first two levels, or of a resource's spec, has a comment above it or its siblings."""
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
    reachable_paths(experiment)
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


def test_the_readme_has_every_file_and_no_claim_of_a_launch() -> None:
    text = (CLUSTERS / "README.md").read_text()
    assert RAY_VERSION in text
    for path in CLUSTERS.iterdir():
        assert path.name == "README.md" or re.search(rf"^\| `{path.name}` \|", text, re.MULTILINE)
    for name in RULES:
        assert re.search(rf"^\| `{name}` .* validated offline, not launched \|$", text, re.MULTILINE)
