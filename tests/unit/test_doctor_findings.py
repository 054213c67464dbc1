"""What the doctor makes of findings: those of this machine, changed in one thing at a time."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from object_store import ObjectStore
from packs import write_folder
from pixelcontrast.cluster.doctor import findings
from pixelcontrast.cluster.doctor.diagnose import _ThisMachine, _try_storage
from pixelcontrast.cluster.doctor.findings import Finding
from pixelcontrast.cluster.doctor.probe import Facts, Probe, _gloo_address
from pixelcontrast.config import Run, Workers
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.storage import Storage
from small_sets import pascal_png, some_ids


@pytest.fixture(scope="module")
def facts(scenes: Path) -> Facts:
    """Facts of this machine, as a node with a token."""
    return replace(
        Probe("a").look(str(scenes), "cityscapes", None, []),
        token_required=True,
        token_file=("/root/token", 0o600),
    )


def beside(facts: Facts, **changes: Any) -> dict[str, Facts]:
    """Two nodes, of which the second differs."""
    return {"a": facts, "b": replace(facts, **changes)}


def test_equal_machines_need_nothing(facts: Facts) -> None:
    machines = beside(facts)
    found = [
        findings.versions(machines),
        findings.token(machines),
        findings.processors(machines),
        *findings.gpus(machines, {"a": {"CPU": 2.0}}),
        findings.disk(machines),
        findings.data(machines, "/data"),
    ]
    assert [finding.remedy for finding in found] == [""] * len(found)
    assert f"torch {facts.versions['torch']}" in found[0].text
    assert "source " in found[0].text


def test_other_versions_are_named_with_their_nodes(facts: Facts) -> None:
    other = facts.versions | {"torch": "2.13.0", "source": "0123"}
    found = findings.versions(beside(facts, versions=other))
    assert f"torch {facts.versions['torch']} on a; 2.13.0 on b" in found.text
    assert "source " in found.text
    assert "timm" not in found.text
    assert found.remedy


def test_a_token_must_be_required_everywhere_and_its_file_be_private(facts: Facts) -> None:
    found = findings.token(beside(facts, token_required=False))
    assert found.text.startswith("not required on b: ")
    assert "RAY_AUTH_MODE=token" in found.remedy
    found = findings.token(beside(facts, token_file=("/home/b/token", 0o644)))
    assert found.text == "/home/b/token has mode 0644 on b"
    assert found.remedy.startswith("chmod 600 /home/b/token")
    assert not findings.token(beside(facts, token_file=None)).remedy


def test_gpus_that_torch_cannot_use_and_two_versions_of_nccl_are_named(facts: Facts) -> None:
    resources = {"a": {"GPU": 1.0}, "b": {"GPU": 1.0}}
    with_gpu = replace(facts, gpus=["H100"], nccl="2.29.3")
    gpus, nccl = findings.gpus({"a": with_gpu, "b": facts}, resources)
    assert gpus.text == "b: Ray has more GPUs to give than torch can use (H100 on a; none on b)"
    assert gpus.remedy
    assert nccl == Finding("NCCL", "2.29.3")
    gpus, nccl = findings.gpus(beside(with_gpu, nccl="2.27.5"), resources)
    assert not gpus.remedy
    assert nccl.text == "2.29.3 on a; 2.27.5 on b"
    assert nccl.remedy


@pytest.mark.parametrize("own", ["127.0.1.1", "::1", None])
def test_a_host_whose_own_name_is_loopback_s_is_named_with_the_remedy(
    facts: Facts, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Debian's /etc/hosts. A name that does not resolve makes gloo take loopback, too."""

    def resolve(*_: Any, **__: Any) -> list[Any]:
        if own is None:
            raise socket.gaierror("Name or service not known")
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (own, 0))]

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    address = _gloo_address()
    assert address in (own, "127.0.0.1")
    near = replace(facts, host="node8", gloo="10.0.0.8")
    found = findings.gloo(beside(near, host="node7", gloo=address))
    assert found.text.startswith(f"the host's own name, node7, is {address} on b: no worker of another node")
    assert "/etc/hosts" in found.remedy
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    found = findings.gloo(beside(near, gloo=_gloo_address()))
    assert found == Finding("gloo", "10.0.0.8 on a; interface eth0 on b")


def test_a_full_disk_is_named_with_its_folder(facts: Facts) -> None:
    found = findings.disk(beside(facts, disk={"/tmp": 10**11, "/runs": 3 * 10**9}))
    assert found.text == "3.0 GB free in /runs on b"
    assert "at least 5 GB" in found.remedy


def test_data_must_be_there_and_the_same(facts: Facts) -> None:
    found = findings.data(beside(facts, data="", data_error="/data: no such folder"), "/data")
    assert found.text == "/data: no such folder on b"
    assert found.remedy


def test_other_data_on_a_node_is_named(facts: Facts, scenes: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scenes, tmp_path / "scenes")
    next(iter(copy.glob("leftImg8bit/train/*/*.png"))).unlink()
    look = Probe("b").look(str(copy), "cityscapes", None, [])
    found = findings.data({"a": facts, "b": look}, "/data")
    assert found == Finding(
        "data", "/data is not the same on a as on b", "copy the same data set to every node"
    )


def test_a_layout_that_does_not_fit_is_named(scenes: Path) -> None:
    found = Probe("a").look(str(scenes), "camvid", None, [])
    assert str(scenes) in found.data_error
    assert "no such folder" in found.data_error


def test_a_storage_that_is_not_shared_or_not_writable_is_named(tmp_path: Path) -> None:
    a, b = Probe("a"), Probe("b")
    mine, yours = str(tmp_path / "1" / "x"), str(tmp_path / "2" / "x")
    a.write(mine)
    b.write(yours)
    unseen = {"a": a.read(mine, ["a", "b"]), "b": b.read(yours, ["a", "b"])}
    found = findings.storage("/runs", {"a": None, "b": None}, unseen)
    assert found.text == "/runs: a does not see what b wrote; b does not see what a wrote"
    assert "all nodes share" in found.remedy
    b.write(mine)
    unseen = {"a": a.read(mine, ["a", "b"]), "b": b.read(mine, ["a", "b"])}
    assert findings.storage("/runs", {"a": None, "b": None}, unseen) == Finding(
        "storage", "/runs written and read back from 2 nodes"
    )
    a.clean(mine)
    b.clean(mine)
    assert not (tmp_path / "1" / "x").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        a.write(str(tmp_path / "file" / "x"))
    found = findings.storage("/runs", {"a": caught.value, "b": None}, {})
    assert found.text.startswith("cannot be written: ")
    assert found.text.endswith("on a")
    assert found.remedy


def test_an_object_store_is_written_and_read_back(object_store: ObjectStore) -> None:
    location = object_store.uri("doctor")
    found = _try_storage(location, ["this machine"], _ThisMachine())
    assert found == Finding("storage", f"{location} written and read back")
    assert Storage(location).names() == []
    missing = object_store.uri("doctor", bucket="no-such-bucket")
    found = _try_storage(missing, ["this machine"], _ThisMachine())
    assert found.text.startswith("cannot be written: ")
    assert "a bucket must exist" in found.remedy


def test_clocks_that_are_apart_are_told_and_slow_answers_are_not() -> None:
    found = findings.clocks({"a": (0.001, 0.002), "b": (-3.2, 0.004)})
    assert found.text == "3.2 s apart: +0.0 s on a; -3.2 s on b"
    assert "NTP" in found.remedy
    assert findings.clocks({"a": (0.001, 0.002), "b": (0.003, 0.001)}) == Finding(
        "clocks", "at most 6 ms apart"
    )
    assert not findings.clocks({"a": (0.0, 0.001), "b": (2.0, 1.9)}).remedy, "the answer took 3.8 s"


def test_workers_without_a_place_are_said_with_the_keys_to_change() -> None:
    run = Run(name="x", workers=Workers(4), cpus_per_worker=2)
    found = findings.placement(run, [{"CPU": 4.0}, {"CPU": 1.0}])
    assert found.text.endswith("2 nodes with 1 CPU; 4 CPUs, where 2 would fit")
    assert found.remedy.startswith("Lower run.workers or run.cpus_per_worker, or add nodes; ")


def test_workers_that_would_wait_for_nodes_are_no_fault() -> None:
    run = Run(name="x", workers=Workers(4), device="cuda", node_timeout=3600)
    found = findings.placement(run, [{"CPU": 0.0}])
    assert found.text.endswith("none would fit; the run would wait for more nodes, 3600 seconds at most")
    assert not found.remedy
    assert findings.placement(run, [{"CPU": 4.0, "GPU": 4.0}]).text.endswith("they fit")


def test_a_node_without_the_package_is_told_from_one_that_hangs() -> None:
    missing, hanging = findings.silent(
        {
            "a": RuntimeError("The actor died\nModuleNotFoundError: No module named 'pixelcontrast'\n"),
            "b": TimeoutError("no answer in 120 seconds"),
        }
    )
    assert missing.text == "a did not answer: ModuleNotFoundError: No module named 'pixelcontrast'"
    assert "runtime_env.yaml" in missing.remedy
    assert hanging.text == "b did not answer: no answer in 120 seconds"
    assert "restart the node" in hanging.remedy


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "pixelcontrast", "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"COLUMNS": "1000"} | environment,
    )


def rows(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines()[1:] if line.strip()]
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


@pytest.mark.slow
def test_a_laptop_is_looked_at_without_a_cluster(scenes: Path, tmp_path: Path) -> None:
    arguments = ("--storage", str(tmp_path / "runs"), "--data", str(scenes), "--layout", "cityscapes")
    home = {"HOME": str(tmp_path)}
    done = doctor(*arguments, "--workers", "64", **home)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(done.stdout)
    assert found.keys() == {"versions", "token", "CPUs", "GPUs", "NCCL", "disk", "data", "storage", "workers"}
    assert found["data"] == f"{scenes} is reachable"
    assert found["storage"] == f"{tmp_path}/runs written and read back"
    assert "they fit, and share" in found["workers"]
    assert not list((tmp_path / "runs").iterdir())

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").touch()
    done = doctor("--storage", str(tmp_path / "runs"), "--data", "/nowhere", "--device", "cuda", **home)
    assert done.returncode == 1
    found = rows(done.stdout)
    assert f"chmod 600 {tmp_path}/.ray/auth_token" in found["token"]
    assert "cannot be written" in found["storage"]
    assert "No such file or directory: '/nowhere'" in found["data"]
    assert "secret" not in done.stdout


def test_wrong_usage_ends_with_status_2_and_a_cluster_that_is_not_there_with_1() -> None:
    done = doctor("--workers", "4:1")
    assert done.returncode == 2
    assert "4:1" in done.stderr
    done = doctor(RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 1
    assert "RAY_ADDRESS is 127.0.0.1:1, but connecting failed" in rows(done.stdout)["cluster"]


def test_the_order_of_pascal_context_s_classes_is_asked_for_and_given(tmp_path: Path) -> None:
    """PNGs do not tell it: without the option doctor would refuse what a training accepts."""
    base = pascal_png(tmp_path, some_ids(60))
    unset = Probe("a").look(str(base), "pascal-context-59", None, [])
    assert "class_order" in unset.data_error
    given = Probe("a").look(str(base), "pascal-context-59", "voc", [])
    assert given.data_error == ""
    assert given.data


def test_a_pack_is_looked_at_without_its_layout(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos")
    pack(data, str(tmp_path / "packed"))
    wanted = Probe("a").look(data.root, "folder", None, [])
    found = Probe("a").look(str(tmp_path / "packed"), None, None, [])
    assert found.data == wanted.data
    (tmp_path / "packed/train/shard-00000.arrow").unlink()
    assert (
        "shard-00000.arrow: is missing"
        in Probe("a").look(str(tmp_path / "packed"), None, None, []).data_error
    )
