"""The doctor on a real cluster of two nodes on this machine, of which one sees other files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raylets
from pixelcontrast.cluster.doctor.diagnose import Wanted, diagnose
from pixelcontrast.config import Run, Workers

NAMESPACE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_unshare() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head with one CPU, in a folder of its own, with a token; its address."""
    with raylets.cluster(tmp_path / "token", monkeypatch, num_cpus=1, include_dashboard=False) as started:
        yield str(started.address)


@pytest.fixture
def other_node(cluster: str, tmp_path: Path) -> Iterator[None]:
    """A node that has folders of its own in place of the storage and the data, and a readable token file."""
    for name in ("runs", "data"):
        (tmp_path / name).mkdir()
    readable = Path(shutil.copy(tmp_path / "token", tmp_path / "readable"))
    readable.chmod(0o644)
    mounts = " && ".join(f"mount -t tmpfs none {tmp_path / name}" for name in ("runs", "data"))
    ray = Path(sys.executable).with_name("ray")
    start = (
        f"exec {ray} start --address={cluster} --num-cpus=1 --object-store-memory={80 * 2**20} --block "
        "--dashboard-agent-listen-port=0"
    )
    with subprocess.Popen(
        [*NAMESPACE, "sh", "-c", f"{mounts} && {start}"],
        env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(readable)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as node:
        try:
            yield
        finally:
            node.send_signal(signal.SIGKILL)  # and with it all processes of its namespace


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a mount namespace")
@pytest.mark.usefixtures("other_node")
def test_what_one_of_two_nodes_lacks_is_named(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "data", dirs_exist_ok=True)
    wanted = Wanted(
        storage=str(tmp_path / "runs"),
        data=str(tmp_path / "data"),
        layout="cityscapes",
        run=Run(name="doctor", workers=Workers(3)),
    )
    wait_for_nodes(2)
    found = {check.name: check for check in diagnose(wanted)}
    assert "node" not in found, found["node"]
    assert found["nodes"].text == "2 alive, 2 of 2 CPUs free, 0 of 0 GPUs free"
    assert found["clocks"].text.startswith("at most ")
    needing = {name: check for name, check in found.items() if check.remedy}
    assert needing.keys() == {"token", "data", "storage", "workers"}
    assert "readable has mode 0644 on " in needing["token"].text
    assert f"{tmp_path}/data/leftImg8bit/train: no such folder" in needing["data"].text
    assert needing["storage"].text.count("does not see what") == 2
    assert needing["workers"].text.endswith("2 nodes with 1 CPU; 1 CPU, where 2 would fit")
    assert not list((tmp_path / "runs").iterdir())


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
