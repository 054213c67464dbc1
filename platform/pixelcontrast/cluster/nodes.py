"""What the cluster's nodes have, as Ray knows it. Imports Ray."""

import ray
from ray._private.state import state


def cluster_resources() -> tuple[list[dict[str, float]], dict[str, float] | None]:
    """Resources of each living node that is not being drained, and the most that an autoscaler adds up to."""
    draining = draining_nodes()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]
    growth = state.get_max_resources_from_cluster_config()
    return nodes, dict(growth) if growth else None


def free_resources() -> list[dict[str, float]]:
    """What is free now on each living node that is not being drained."""
    draining = draining_nodes()
    return [free for node, free in state.available_resources_per_node().items() if node not in draining]


def draining_nodes() -> set[str]:
    """Ids of the nodes that will be taken away: preempted, or scaled down."""
    return set(state.get_draining_nodes())


def on_loopback() -> bool:
    """Whether all nodes are this machine, listening to itself only."""
    return all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes() if node["Alive"])
