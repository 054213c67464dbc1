"""A real cluster of several nodes on this machine, each a raylet of its own, with a token."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pixelcontrast.cluster.ray_internals import forget_settings

NODE = {"object_store_memory": 80 * 2**20, "dashboard_agent_listen_port": 0}
"""What every node is started with."""


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
