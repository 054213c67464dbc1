"""What Ray's launcher makes of aws.yaml: its own code, against moto's EC2 and IAM in this process."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

import strict_yaml
from cluster_rules import ROOT

REGION = "us-west-2"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The file with the names of a subnet, a group, an image and profiles that are there."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray puts the key that it makes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        ec2: Any = boto3.resource("ec2", REGION)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")
        names = {
            "subnet-CHANGE_ME": vpc.create_subnet(CidrBlock="10.0.1.0/24", AvailabilityZone=f"{REGION}a").id,
            "sg-CHANGE_ME": vpc.create_security_group(GroupName="own", Description="own").id,
            "ami-CHANGE_ME": boto3.client("ec2", REGION).register_image(Name="image")["ImageId"],
        }
        iam: Any = boto3.client("iam", REGION)
        for name in ("head", "worker"):
            iam.create_instance_profile(InstanceProfileName=f"CHANGE_ME-pixelcontrast-{name}")
        text = (ROOT / "clusters/aws.yaml").read_text()
        (read,) = strict_yaml.load_all(re.sub("|".join(names), lambda found: names[found[0]], text))
        yield read


def launch(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A node of each type as ``ray up`` makes them, up to the first ssh; EC2's description of each."""
    config = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node_type in config["available_node_types"].items():
        provider.create_node(node_type["node_config"], {"ray-user-node-type": name}, 1)
    found = boto3.client("ec2", REGION).describe_instances()["Reservations"]
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    tags = [{tag["Key"]: tag["Value"] for tag in instance["Tags"]} for instance in instances]
    return {tag["ray-user-node-type"]: instance for tag, instance in zip(tags, instances, strict=True)}


def open_groups() -> list[str]:
    """Groups that let in connections from anywhere."""
    groups = boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]
    return [group["GroupName"] for group in groups if "0.0.0.0/0" in str(group["IpPermissions"])]


def test_ray_launches_the_file_as_it_is_meant(config: dict[str, Any]) -> None:
    nodes = launch(config)
    assert nodes.keys() == {"head", "gpu"}
    for instance in nodes.values():
        assert instance.get("PublicIpAddress") is None
        assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["own"]
        assert (instance["MetadataOptions"]["HttpTokens"], instance["MetadataOptions"]["HttpEndpoint"]) == (
            "required",
            "enabled",
        )
    assert nodes["gpu"]["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in nodes["head"]
    profiles = [nodes[name]["IamInstanceProfile"]["Arn"].rpartition("-")[2] for name in ("head", "gpu")]
    assert profiles == ["head", "worker"]
    volumes = boto3.client("ec2", REGION).describe_volumes()["Volumes"]
    assert sorted((volume["Encrypted"], volume["Size"]) for volume in volumes) == [(True, 128), (True, 256)]
    assert not open_groups()
    assert not boto3.client("iam", REGION).list_roles()["Roles"]


def test_what_the_file_leaves_out_ray_opens_to_the_world(config: dict[str, Any]) -> None:
    """Why the rules want a group and a profile in every node type."""
    del config["available_node_types"]["gpu"]["node_config"]["SecurityGroupIds"]
    launch(config)
    assert open_groups() == ["ray-autoscaler-pixelcontrast"]
