"""`pixelcontrast data pack` on a real cluster: its nodes decode, and what one of them cannot see is named."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import raylets
from packs import write_folder
from pixelcontrast.cli.data import data_command
from pixelcontrast.datasets.packing import write


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SAMPLES_PER_SHARD", 2)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head without CPUs, so that all tasks are done by other nodes; its address."""
    with raylets.cluster(tmp_path / "token", monkeypatch, num_cpus=0, include_dashboard=False) as started:
        yield str(started.address)


@pytest.mark.slow
def test_nodes_write_the_bytes_that_one_process_does(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / "photos")
    with raylets.node_with_own(tmp_path / "other", address=cluster, token=tmp_path / "token"):
        raylets.wait_for_nodes(2)
        data_command(["pack", data.root, str(tmp_path / "there")])
    assert "train: 9 samples in 5 shards" in capsys.readouterr().out
    monkeypatch.delenv("RAY_ADDRESS")
    data_command(["pack", data.root, str(tmp_path / "here"), "--processes", "1"])
    files = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.*")]
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


@pytest.mark.slow
@raylets.needs_namespaces
@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("photos", r"photos/images/train/000\.png"),
        ("packed", r"packed: the pack that was begun there is not seen from here; allowed is a folder that"),
    ],
)
def test_a_node_that_does_not_see_the_data_or_the_pack_ends_it(
    own: str, message: str, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with raylets.node_with_own(tmp_path / own, address=cluster, token=tmp_path / "token"):
        raylets.wait_for_nodes(2)
        data = write_folder(tmp_path / "photos")
        with pytest.raises(SystemExit) as end:
            data_command(["pack", data.root, str(tmp_path / "packed")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert re.search(message, said), said
    assert not (tmp_path / "packed/manifest.json").exists()


def test_a_uri_is_packed_by_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SystemExit) as end:
        data_command(["pack", "s3://bucket/photos", str(tmp_path / "packed")])
    assert end.value.code == 2
    assert (
        "ROOT is s3://bucket/photos, which one machine copies and packs: unset RAY_ADDRESS"
        in capsys.readouterr().err
    )
