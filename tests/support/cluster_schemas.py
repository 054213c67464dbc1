"""What a field may be called and hold: Ray's, EC2's, Compute Engine's and KubeRay's own schemas.

Each function returns what is wrong, one line each.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import click
import jsonschema
import yaml
from botocore.validate import ParamValidator
from googleapiclient import discovery_cache
from ray.autoscaler._private.util import prepare_config, validate_config

Problems = Iterator[str]


def ray_launcher(config: dict[str, Any]) -> Problems:
    """What ``ray up`` itself would refuse before it calls a cloud."""
    try:
        validate_config(prepare_config(config))
    except (jsonschema.ValidationError, click.ClickException, ValueError, KeyError) as error:
        yield f"Ray: {getattr(error, 'message', error)}"


def ec2_instance(node_config: dict[str, Any]) -> Problems:
    """The request that Ray's provider makes of a ``node_config``, against botocore's model of EC2."""
    request = {key: value for key, value in node_config.items() if key != "SubnetIds"}  # Ray's own key
    request |= {"MinCount": 1, "MaxCount": 1, "SubnetId": node_config.get("SubnetIds", ["none"])[0]}
    shape = _run_instances()
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        yield from report.generate_report().splitlines()
    else:
        yield from _enums(request, shape, "")


@functools.cache
def _run_instances() -> Any:
    model: Any = botocore.session.get_session().get_service_model("ec2")
    return model.operation_model("RunInstances").input_shape


def _enums(value: Any, shape: Any, path: str) -> Problems:
    """botocore leaves it to the service to refuse a word that it does not know."""
    if shape.type_name == "structure":
        for key, member in value.items():
            yield from _enums(member, shape.members[key], f"{path}.{key}")
    elif shape.type_name == "list":
        for member in value:
            yield from _enums(member, shape.member, path)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path[1:]}: {value!r} is no {shape.name}"


def gce_instance(node_config: dict[str, Any]) -> Problems:
    """A ``node_config`` against the discovery document of Google's client."""
    yield from _errors(node_config, _instance())


@functools.cache
def _instance() -> dict[str, Any]:
    schemas = json.loads(discovery_cache.get_static_doc("compute", "v1") or "")["schemas"]
    defined = {name: _map_objects(schema, _of_google) for name, schema in schemas.items()}
    return {"$ref": "#/$defs/Instance", "$defs": defined}


def _of_google(node: dict[str, Any]) -> dict[str, Any]:
    """Its references are bare names, and its formats are no JSON schema's."""
    kept = {
        key: value
        for key, value in node.items()
        if key in ("type", "properties", "items", "enum", "additionalProperties")
    }
    if isinstance(node.get("$ref"), str):
        return {"$ref": f"#/$defs/{node['$ref']}"}
    if "properties" in kept:
        kept["additionalProperties"] = False
    return kept


KUBERAY_CRDS = "KUBERAY_CRDS"


def kuberay_definitions() -> Path | None:
    """The folder of KubeRay's custom resource definitions, by the environment; None without it."""
    folder = os.environ.get(KUBERAY_CRDS)
    return Path(folder) if folder else None


def kuberay_resource(resource: dict[str, Any]) -> Problems:
    """A RayCluster or a RayJob against KubeRay's definition of it."""
    yield from _errors(resource, _resource_schema(resource["kind"]))


def network_policy(resource: dict[str, Any]) -> Problems:
    """A NetworkPolicy, by the parts of Kubernetes' schema that KubeRay's definition includes."""
    spec = _resource_schema("RayCluster")["properties"]["spec"]["properties"]
    term = spec["headGroupSpec"]["properties"]["template"]["properties"]["spec"]["properties"]["affinity"]
    selector = term["properties"]["podAffinity"]["properties"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["items"]["properties"]["labelSelector"]
    rules = spec["networkPolicy"]["properties"]["head"]["properties"]
    policy = {
        "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
        "ingress": rules["ingressRules"],
        "egress": rules["egressRules"],
        "podSelector": selector,
    }
    yield from _errors(
        resource,
        _closed(apiVersion={"const": "networking.k8s.io/v1"}, kind={}, metadata={}, spec=_closed(**policy)),
    )


def _closed(**properties: Any) -> dict[str, Any]:
    """An object of these and no others; the last must be there."""
    return {"properties": properties, "required": list(properties)[-1:], "additionalProperties": False}


@functools.cache
def _resource_schema(kind: str) -> dict[str, Any]:
    folder = kuberay_definitions()
    assert folder is not None, f"{KUBERAY_CRDS} is not set"
    text = (folder / f"ray.io_{kind.lower()}s.yaml").read_text()
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    schema = _map_objects(schema, _of_kubernetes)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _of_kubernetes(node: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI 3 says in words of its own; and the API server refuses fields that it does not know."""
    kept = {key: value for key, value in node.items() if key not in ("format", "nullable", "description")}
    if node.get("x-kubernetes-int-or-string"):
        kept.pop("type", None)
        kept["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    if node.get("nullable"):
        kept = {"anyOf": [kept, {"type": "null"}]}
    return kept


def _map_objects(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Every schema below changed; the names in ``properties`` are no schemas."""
    if isinstance(node, list):
        return [_map_objects(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    mapped = {key: _map_objects(value, change) for key, value in node.items() if key != "properties"}
    if "properties" in node:
        named = node["properties"].items()
        mapped["properties"] = {name: _map_objects(schema, change) for name, schema in named}
    return change(mapped)


def _errors(value: Any, schema: dict[str, Any]) -> Problems:
    for error in jsonschema.Draft7Validator(schema).iter_errors(value):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
