"""What the files for KubeRay must keep to; rules as in ``cluster_rules``, of a file's documents.

The last document is the RayCluster or the RayJob.
"""

from collections.abc import Iterator

import cluster_schemas
from cluster_rules import COMMON, RAY_VERSION, Config, Problems, Rule

Documents = list[Config]


def kuberay_knows_every_field(documents: Documents) -> Problems:
    for document in documents:
        if document["kind"] in ("RayCluster", "RayJob"):
            yield from cluster_schemas.kuberay_resource(document)
        elif document["kind"] == "NetworkPolicy":
            yield from cluster_schemas.network_policy(document)
        elif document["kind"] != "ServiceAccount" or document.keys() != {"apiVersion", "kind", "metadata"}:
            yield f"{document['kind']}: nothing here knows its fields"


def kuberay_has_the_tested_ray(documents: Documents) -> Problems:
    spec = _cluster(documents)
    if spec.get("rayVersion") != RAY_VERSION:
        yield f"rayVersion: {spec.get('rayVersion')} is not {RAY_VERSION}"
    images = {container["image"] for container in _containers(documents)}
    autoscaler = spec.get("autoscalerOptions", {}).get("image")
    if len(images | ({autoscaler} - {None})) != 1:
        yield f"image: all the same, not {images} and {autoscaler}"
    for image in images:
        tag = image.rpartition(":")[2]
        job = documents[-1]["kind"] == "RayJob"
        if tag == "latest" or (tag != RAY_VERSION and not job):
            yield f"image: {image} is not pinned"


def kuberay_makes_a_token(documents: Documents) -> Problems:
    if _cluster(documents).get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: token"


def kuberay_is_inside_only(documents: Documents) -> Problems:
    head = _cluster(documents)["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress") or "ingressOptions" in head:
        yield "headGroupSpec: the service must be a ClusterIP without ingress"
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    for name, pod in _pods(documents):
        labels = pod.get("metadata", {}).get("labels", {}).items()
        if not any(
            "Ingress" in policy.get("policyTypes", [])
            and policy["podSelector"].get("matchLabels", {}).items() <= labels
            for policy in policies
        ):
            yield f"{name}: no NetworkPolicy is about it"
    for policy in policies:
        for rule in policy.get("ingress", []):
            if not rule.get("from") or any("podSelector" not in peer for peer in rule["from"]):
                yield "NetworkPolicy: lets in others than named pods"


def pods_have_no_special_rights(documents: Documents) -> Problems:
    for name, pod in _pods(documents):
        spec, security = pod["spec"], pod["spec"].get("securityContext", {})
        if security.get("runAsNonRoot") is not True or "seccompProfile" not in security:
            yield f"{name}: securityContext must have runAsNonRoot and a seccompProfile"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name}: shares the host's network or processes"
        if any("hostPath" in volume for volume in spec.get("volumes", [])):
            yield f"{name}: mounts a folder of the host"
    for container in _containers(documents):
        rights = container.get("securityContext", {})
        if rights.get("allowPrivilegeEscalation") is not False or rights.get("privileged"):
            yield f"{container['name']}: allowPrivilegeEscalation must be false"
        if "ALL" not in rights.get("capabilities", {}).get("drop", []):
            yield f"{container['name']}: capabilities must be dropped"
        if any("value" in variable for variable in container.get("env", [])):
            yield f"{container['name']}: a value in env; settings go with the job, secrets into a Secret"


def ray_s_containers_have_limits(documents: Documents) -> Problems:
    """Ray takes them for what the node has."""
    for container in _containers(documents):
        if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
            yield f"{container['name']}: resources.limits must have cpu and memory"


def kuberay_spot_is_for_workers(documents: Documents) -> Problems:
    cluster = _cluster(documents)
    head = cluster["headGroupSpec"]["template"]["spec"]
    terms = head.get("affinity", {}).get("nodeAffinity", {})
    terms = terms.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    never = [
        term
        for term in terms
        if {"key": "cloud.google.com/gke-spot", "operator": "DoesNotExist"}
        in term.get("matchExpressions", [])
    ]
    if not terms or len(never) < len(terms):
        yield "headGroupSpec: the head must not be on a spot node"
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "headGroupSpec: a training could land on the head"
    for group in cluster["workerGroupSpecs"]:
        if group["template"]["spec"].get("nodeSelector", {}).get("cloud.google.com/gke-spot") != "true":
            yield f"{group['groupName']}: workers are on spot nodes"


def a_job_s_cluster_goes_with_it(documents: Documents) -> Problems:
    spec = documents[-1]["spec"]
    if documents[-1]["kind"] == "RayJob" and (
        not spec.get("shutdownAfterJobFinishes") or not spec.get("activeDeadlineSeconds")
    ):
        yield "shutdownAfterJobFinishes, activeDeadlineSeconds: an idle cluster costs"


def _cluster(documents: Documents) -> Config:
    spec = documents[-1]["spec"]
    return spec["rayClusterSpec"] if documents[-1]["kind"] == "RayJob" else spec


def _pods(documents: Documents) -> Iterator[tuple[str, Config]]:
    cluster = _cluster(documents)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]
    if "submitterPodTemplate" in documents[-1]["spec"]:
        yield "submitter", documents[-1]["spec"]["submitterPodTemplate"]


def _containers(documents: Documents) -> Iterator[Config]:
    for _, pod in _pods(documents):
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]


KUBERAY: list[Rule] = [
    *COMMON,
    kuberay_knows_every_field,
    kuberay_has_the_tested_ray,
    kuberay_makes_a_token,
    kuberay_is_inside_only,
    pods_have_no_special_rights,
    ray_s_containers_have_limits,
    kuberay_spot_is_for_workers,
    a_job_s_cluster_goes_with_it,
]
