"""What Ray knows about the nodes of the cluster. Imports Ray."""

from pathlib import Path

import ray

from pixelcontrast.cluster.ray_internals import draining_nodes, free_resources_by_node


def cluster_resources() -> list[dict[str, float]]:
    """Resources of each living node that is not being drained."""
    draining = draining_nodes()
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]


def free_resources() -> list[dict[str, float]]:
    """What is free now on each living node that is not being drained."""
    draining = draining_nodes()
    return [free for node, free in free_resources_by_node().items() if node not in draining]


def own_node() -> str:
    """The resource that stands for the address of this process's node, by which others are placed on it."""
    here = ray.get_runtime_context().get_node_id()
    (resources,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(name for name in resources if name.startswith("node:") and not name.startswith("node:__"))


def on_loopback() -> bool:
    """Whether all nodes are this machine, listening to itself only."""
    return all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes() if node["Alive"])


def session_folder() -> Path:
    """The folder of this node's Ray, with its logs and what it spills."""
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir()) / context.get_session_name()
