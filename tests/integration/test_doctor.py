"""The doctor on a real cluster of two nodes on this machine, of which one sees other files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import raylets
from pixelcontrast.cluster.doctor.diagnose import Wanted, diagnose
from pixelcontrast.config import Run, Workers


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head with one CPU, in a folder of its own, with a token; its address."""
    with raylets.cluster(tmp_path / "token", monkeypatch, num_cpus=1, include_dashboard=False) as started:
        yield str(started.address)


@pytest.fixture
def other_node(cluster: str, tmp_path: Path) -> Iterator[None]:
    """A node that has folders of its own in place of the storage and the data, and a readable token file."""
    readable = Path(shutil.copy(tmp_path / "token", tmp_path / "readable"))
    readable.chmod(0o644)
    with raylets.node_with_own(tmp_path / "runs", tmp_path / "data", address=cluster, token=readable):
        yield


@pytest.mark.slow
@raylets.needs_namespaces
@pytest.mark.usefixtures("other_node")
def test_what_one_of_two_nodes_lacks_is_named(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "data", dirs_exist_ok=True)
    wanted = Wanted(
        storage=str(tmp_path / "runs"),
        data=str(tmp_path / "data"),
        layout="cityscapes",
        run=Run(name="doctor", workers=Workers(3)),
    )
    raylets.wait_for_nodes(2)
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
