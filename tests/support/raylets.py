"""A real cluster of several nodes on this machine, each a raylet of its own, with a token."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pixelcontrast.cluster.ray_internals import forget_settings

NODE = {"object_store_memory": 80 * 2**20, "dashboard_agent_listen_port": 0}
"""What every node is started with."""

_NAMESPACE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _can_unshare() -> bool:
    try:
        return subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(not _can_unshare(), reason="needs the right to make a mount namespace")


@contextmanager
def cluster(token: Path, patch: pytest.MonkeyPatch, **head: Any) -> Iterator[Any]:
    """Ray's ``Cluster`` with its head, started with ``head``; RAY_ADDRESS names it, ``token`` is written.

    Nodes are added and removed in the main thread only.
    """
    from ray.cluster_utils import Cluster

    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    forget_settings()  # an earlier test may have been on another cluster
    with tempfile.TemporaryDirectory(prefix="raylets-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # Not by temp_dir: Cluster notes its address in the default folder all the same, and fails where that
        # is not there.
        patch.setenv("RAY_TMPDIR", folder)
        started = Cluster(initialize_head=True, head_node_args=NODE | head)
        try:
            patch.setenv("RAY_ADDRESS", str(started.address))
            yield started
        finally:
            started.shutdown()


@contextmanager
def node_with_own(*folders: Path, address: str, token: Path) -> Iterator[None]:
    """A node with one CPU that has empty folders of its own in place of these, which are made."""
    for folder in folders:
        folder.mkdir()
    mounts = " && ".join(f"mount -t tmpfs none {folder}" for folder in folders)
    ray = Path(sys.executable).with_name("ray")
    start = (
        f"exec {ray} start --address={address} --num-cpus=1 --object-store-memory={80 * 2**20} --block "
        "--dashboard-agent-listen-port=0"
    )
    with subprocess.Popen(
        [*_NAMESPACE, "sh", "-c", f"{mounts} && {start}"],
        env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(token)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as node:
        try:
            yield
        finally:
            node.send_signal(signal.SIGKILL)  # and with it all processes of its namespace


def wait_for_nodes(number: int) -> None:
    import ray._raylet as core
    from ray._private.state import GlobalState

    state, compiled = GlobalState(), core
    options: Any = getattr(compiled, "GcsClientOptions")  # noqa: B009
    address = os.environ["RAY_ADDRESS"]
    state._initialize_global_state(
        options.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    give_up = time.monotonic() + 60
    while sum(node["Alive"] for node in state.node_table()) < number:
        assert time.monotonic() < give_up, "the second node did not come"
        time.sleep(0.5)
    state.disconnect()
