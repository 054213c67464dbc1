"""What the cluster launcher's files must keep to: private, with a token, pinned, spot for workers only.

A rule is a function of a file's content; it yields what is wrong, one line each.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_schemas

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]
Problems = Iterator[str]
Rule = Callable[[Any], Problems]

(RAY_VERSION,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
"""The version that the tests have passed with."""


def strings(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration, with its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from strings(value, f"{path}.{number}")
    elif isinstance(node, str):
        yield path[1:], node


def nothing_is_open_to_the_world(config: Any) -> Problems:
    for path, text in strings(config):
        if re.search(r"\b0\.0\.0\.0\b|(^|[^:\w])::/0", text):
            yield f"{path}: {text!r} is open to anybody"


def no_secret_is_written_down(config: Any) -> Problems:
    for path, text in strings(config):
        if re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{40,}\b|RAY_AUTH_TOKEN=", text):
            yield f"{path}: holds a secret"


# Of the cluster launcher's files: local, AWS, GCP.


def ray_accepts_it(config: Config) -> Problems:
    yield from cluster_schemas.ray_launcher(config)


def ray_starts_with_a_token(config: Config) -> Problems:
    if config.get("file_mounts", {}).get("~/.ray/auth_token") != "~/.ray/auth_token":
        yield "file_mounts: the token does not get to the nodes"
    if not any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"]):
        yield "setup_commands: the token's file may be read by others"
    for command in _starts(config):
        if "RAY_AUTH_MODE=token" not in command:
            yield f"without token: {command}"


def the_dashboard_listens_on_loopback(config: Config) -> Problems:
    for command in config["head_start_ray_commands"]:
        if "ray start" in command and "--dashboard-host=127.0.0.1" not in command:
            yield f"dashboard: {command}"


def the_image_has_the_tested_ray(config: Config) -> Problems:
    image = config["docker"].get("image", "none")
    if not image.endswith(f":{RAY_VERSION}"):
        yield f"docker.image: {image} is not tagged {RAY_VERSION}"
    for path, text in strings(config):
        if "pip install" in text:
            yield f"{path}: installs on the nodes; it belongs into the image"


def containers_have_no_special_rights(config: Config) -> Problems:
    for option in config["docker"].get("run_options", []):
        if re.match(r"--privileged|--cap-add|--publish|-p\b|--user root|--pid", option):
            yield f"docker.run_options: {option}"


def _starts(config: Config) -> list[str]:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


# Of the clouds' among them.


def nodes_are_private_and_deleted(config: Config) -> Problems:
    provider = config["provider"]
    if provider.get("use_internal_ips") is not True:
        yield "provider.use_internal_ips: nodes would need public addresses"
    if provider.get("cache_stopped_nodes") is not False:
        yield "provider.cache_stopped_nodes: disks would stay, and cost"
    if "ssh_proxy_command" not in config["auth"]:
        yield "auth.ssh_proxy_command: ssh would need a way into the private network"


def workers_come_and_go(config: Config) -> Problems:
    for name, node_type in _workers(config).items():
        if node_type.get("min_workers", 0) != 0:
            yield f"{name}.min_workers: nodes cost while there is no work"
    if _head(config)["resources"].get("CPU") != 0:
        yield "head.resources: a training could land on the head"


def _head(config: Config) -> Config:
    return config["available_node_types"][config["head_node_type"]]


def _workers(config: Config) -> dict[str, Config]:
    types = config["available_node_types"]
    return {name: node_type for name, node_type in types.items() if name != config["head_node_type"]}


def _node_configs(config: Config) -> Iterator[tuple[str, Config]]:
    for name, node_type in config["available_node_types"].items():
        yield name, node_type["node_config"]


def ec2_knows_every_field(config: Config) -> Problems:
    for name, node in _node_configs(config):
        for problem in cluster_schemas.ec2_instance(node):
            yield f"{name}: {problem}"


def ec2_metadata_needs_a_session(config: Config) -> Problems:
    for name, node in _node_configs(config):
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}: MetadataOptions.HttpTokens must be required (IMDSv2)"


def ec2_disks_are_encrypted_and_go(config: Config) -> Problems:
    for name, node in _node_configs(config):
        disks = [mapping.get("Ebs", {}) for mapping in node.get("BlockDeviceMappings", [])]
        if not disks or not all(disk.get("Encrypted") and disk.get("DeleteOnTermination") for disk in disks):
            yield f"{name}: disks must be encrypted and end with the instance"


def ec2_leaves_nothing_to_ray_s_defaults(config: Config) -> Problems:
    """A group open to ssh from anywhere, a role with all of EC2 and S3, a public subnet."""
    for name, node in _node_configs(config):
        for key in ("SecurityGroupIds", "IamInstanceProfile", "SubnetIds", "ImageId"):
            if not node.get(key):
                yield f"{name}: {key} is missing"
    if "security_group" in config["provider"]:
        yield "provider.security_group: Ray would add ssh from anywhere to it"


def ec2_spot_is_for_workers(config: Config) -> Problems:
    if "InstanceMarketOptions" in _head(config)["node_config"]:
        yield "the head must not be a spot instance"
    for name, node_type in _workers(config).items():
        if node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType") != "spot":
            yield f"{name}: workers are spot instances"


def gce_knows_every_field(config: Config) -> Problems:
    for name, node in _node_configs(config):
        for problem in cluster_schemas.gce_instance(node):
            yield f"{name}: {problem}"


def gce_has_no_public_address(config: Config) -> Problems:
    for name, node in _node_configs(config):
        interfaces = node.get("networkInterfaces", [])
        if not interfaces or any("accessConfigs" in it or "subnetwork" not in it for it in interfaces):
            yield f"{name}: networkInterfaces must have a subnetwork, and no accessConfigs"


def gce_disks_go(config: Config) -> Problems:
    for name, node in _node_configs(config):
        if not node.get("disks") or not all(disk.get("autoDelete") for disk in node["disks"]):
            yield f"{name}: disks must end with the instance"


def gce_boots_are_watched(config: Config) -> Problems:
    for name, node in _node_configs(config):
        if not node.get("shieldedInstanceConfig", {}).get("enableIntegrityMonitoring"):
            yield f"{name}: shieldedInstanceConfig.enableIntegrityMonitoring"


def gce_spot_is_for_workers(config: Config) -> Problems:
    if _head(config)["node_config"].get("scheduling", {}).get("provisioningModel") != "STANDARD":
        yield "the head must not be a spot instance"
    for name, node_type in _workers(config).items():
        scheduling = node_type["node_config"].get("scheduling", {})
        if scheduling.get("provisioningModel") != "SPOT":
            yield f"{name}: workers are spot instances"
        if scheduling.get("onHostMaintenance") != "TERMINATE":
            yield f"{name}: an instance with GPUs, or a spot one, cannot be moved while it runs"


def gce_workers_say_what_they_have(config: Config) -> Problems:
    """Ray does not ask Google, and gives a service account to the head only."""
    for name, node_type in _workers(config).items():
        if not {"CPU", "GPU"} <= node_type["resources"].keys():
            yield f"{name}.resources: CPU and GPU must be given"
        if not node_type["node_config"].get("serviceAccounts"):
            yield f"{name}: without serviceAccounts the bucket is out of reach"


COMMON: list[Rule] = [nothing_is_open_to_the_world, no_secret_is_written_down]
"""Rules of any file."""
LOCAL: list[Rule] = [
    *COMMON,
    ray_accepts_it,
    ray_starts_with_a_token,
    the_dashboard_listens_on_loopback,
    the_image_has_the_tested_ray,
    containers_have_no_special_rights,
]
AWS: list[Rule] = [
    *LOCAL,
    nodes_are_private_and_deleted,
    workers_come_and_go,
    ec2_knows_every_field,
    ec2_metadata_needs_a_session,
    ec2_disks_are_encrypted_and_go,
    ec2_leaves_nothing_to_ray_s_defaults,
    ec2_spot_is_for_workers,
]
GCP: list[Rule] = [
    *LOCAL,
    nodes_are_private_and_deleted,
    workers_come_and_go,
    gce_knows_every_field,
    gce_has_no_public_address,
    gce_disks_go,
    gce_boots_are_watched,
    gce_spot_is_for_workers,
    gce_workers_say_what_they_have,
]
