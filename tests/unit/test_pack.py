"""`pixelcontrast data pack`: a pack is read as the folder is, and is never a wrong one."""

import json
import os
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from object_store import CREDENTIALS
from packs import TOML, write_folder
from pixelcontrast.cli.data import data_command
from pixelcontrast.config import Data
from pixelcontrast.datasets.check_files import check_files
from pixelcontrast.datasets.loading import train_loader
from pixelcontrast.datasets.packing import staging, write
from pixelcontrast.datasets.packing.manifest import Encoding
from pixelcontrast.datasets.packing.staging import stage_files, stage_pack
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.segmentation import build_dataset, check_data, list_split
from pixelcontrast.storage import Storage
from processes import FORKING

if TYPE_CHECKING:
    from object_store import ObjectStore

ENCODINGS: tuple[Encoding, ...] = ("raw", "source")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SAMPLES_PER_SHARD", 4)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return write_folder(tmp_path / "photos")


@pytest.fixture
def packed(data: Data, tmp_path: Path) -> Data:
    pack(data, str(tmp_path / "packed"))
    return replace(data, root=str(tmp_path / "packed"))


def assert_same_samples(one: Data, other: Data) -> None:
    for split in ("train", "val"):
        ours, theirs = build_dataset(one, split), build_dataset(other, split)
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            assert ours.name(index) == theirs.name(index)
            for a, b in zip(ours.read(index), theirs.read(index), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_pack_has_the_samples_classes_and_fingerprint_of_the_folder(
    data: Data, tmp_path: Path, encoding: Encoding
) -> None:
    manifest = pack(data, str(tmp_path / "packed"), encoding=encoding)
    packed = replace(data, root=str(tmp_path / "packed"))
    assert [len(shards) for shards in manifest.splits.values()] == [3, 1]
    assert_same_samples(packed, data)
    for split in ("train", "val"):
        ours, theirs = build_dataset(packed, split), build_dataset(data, split)
        assert ours.fingerprint == theirs.fingerprint
        assert ours.labels == theirs.labels
    assert not (tmp_path / "packed/.packing").exists()


def test_a_training_reads_the_same_bits_from_a_pack(data: Data, packed: Data) -> None:
    def batches(settings: Data) -> list[torch.Tensor]:
        loader = train_loader(
            build_dataset(settings, "train"),
            settings,
            seed=0,
            batch_size=4,
            start_step=0,
            steps=6,
            rank=0,
            world_size=1,
        )
        return [tensor for batch in loader for tensor in batch]

    wanted = batches(data)
    for settings in (packed, replace(packed, loader_processes=2)):
        for one, other in zip(batches(settings), wanted, strict=True):
            assert torch.equal(one, other)


def test_pixels_come_from_the_map_and_writing_to_them_leaves_the_file(packed: Data) -> None:
    shard = Path(packed.root) / "train/shard-00000.arrow"
    before, dataset = shard.read_bytes(), build_dataset(packed, "train")
    image, _ = dataset.read(0)
    again, _ = dataset.read(0)
    assert image.data_ptr() == again.data_ptr()
    image.zero_()
    assert shard.read_bytes() == before


def test_processes_and_repetition_change_nothing(data: Data, packed: Data, tmp_path: Path) -> None:
    pack(data, str(tmp_path / "again"), mapped=partial(in_processes, processes=2))
    files = sorted(path.relative_to(packed.root) for path in Path(packed.root).rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (Path(packed.root) / file).read_bytes()
    stamp = (tmp_path / "again/manifest.json").stat().st_mtime_ns
    pack(data, str(tmp_path / "again"))
    assert (tmp_path / "again/manifest.json").stat().st_mtime_ns == stamp


def test_an_edited_dataset_toml_does_not_change_a_pack(data: Data, packed: Data, tmp_path: Path) -> None:
    fingerprint = build_dataset(packed, "train").fingerprint
    (tmp_path / "photos/dataset.toml").write_text(TOML.replace("[7]", "[8, 7]"))
    assert build_dataset(packed, "train").fingerprint == fingerprint
    with pytest.raises(ValueError, match="holds a pack of other images or settings"):
        pack(data, packed.root)


def test_changed_images_are_not_taken_for_packed_ones(data: Data, packed: Data) -> None:
    path = Path(data.root) / "masks/train/000.png"
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match="holds a pack of other images"):
        pack(data, packed.root)


def test_another_layout_or_split_is_refused(packed: Data) -> None:
    with pytest.raises(ValueError, match=r"data\.layout: camvid, but .* was packed from folder"):
        build_dataset(replace(packed, layout="camvid"), "train")
    with pytest.raises(ValueError, match="the pack has no test images; it has train, val"):
        list_split(packed, "test")
    with pytest.raises(ValueError, match="is a pack already"):
        pack(packed, packed.root + "-2")


def test_a_folder_with_other_files_is_refused(data: Data, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty, it has notes\.txt, photos; allowed is a new"):
        pack(data, str(tmp_path))
    assert (tmp_path / "notes.txt").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, r"val/shard-00000\.arrow: has [\d,]+ bytes instead of [\d,]+; copy it again"),
        (Path.unlink, r"val/shard-00000\.arrow: is missing; copy it again"),
    ],
)
def test_a_shard_that_is_missing_or_cut_off_is_found_before_the_start(
    packed: Data, harm: object, message: str
) -> None:
    assert callable(harm)
    harm(Path(packed.root) / "val/shard-00000.arrow")
    with pytest.raises(ValueError, match=message):
        check_data(packed)


def test_a_damaged_manifest_is_refused(packed: Data) -> None:
    path = Path(packed.root) / "manifest.json"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"manifest\.json: damaged, or of another version"):
        check_data(packed)


def flip_in_sample(root: Path, split: str, index: int) -> str:
    """Flip a bit in a sample's label; returns its name."""
    manifest = json.loads((root / "manifest.json").read_bytes())
    shard = manifest["splits"][split][index // 4]
    path = root / shard["file"]
    content = bytearray(path.read_bytes())
    dataset = build_dataset(Data(layout="folder", root=str(root)), "train")
    label = dataset.read(index)[1].numpy().tobytes()
    place = content.index(label)
    content[place + len(label) // 2] ^= 0x40
    path.write_bytes(content)
    return shard["samples"][index % 4]["image"]


def test_check_counts_what_a_pack_holds_and_names_a_damaged_sample(
    data: Data, packed: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = check_files(packed, processes=1), check_files(data, processes=1)
    assert there.well
    for split in ("train", "val"):
        assert (there.splits[split].class_pixels == here.splits[split].class_pixels).all()
        assert there.splits[split].sizes == here.splits[split].sizes
    name = flip_in_sample(Path(packed.root), "train", 5)
    (finding,) = check_files(packed, processes=1).findings
    assert finding.file == "train/shard-00001.arrow"
    assert finding.problem == f"{name} is damaged: its sha256 is not the manifest's"
    with pytest.raises(SystemExit) as ended:
        data_command(["check", packed.root, "--processes", "1"])
    assert ended.value.code == 1
    assert "1 problem" in capsys.readouterr().out


def test_an_encoded_sample_is_verified_at_every_reading(data: Data, tmp_path: Path) -> None:
    root = tmp_path / "packed"
    pack(data, str(root), encoding="source")
    jpeg = (Path(data.root) / "images/train/001.jpg").read_bytes()
    path = root / "train/shard-00000.arrow"
    content = bytearray(path.read_bytes())
    content[content.index(jpeg) + len(jpeg) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train/shard-00000\.arrow: images/train/001\.jpg is damaged"):
        build_dataset(replace(data, root=str(root)), "train").read(1)


def test_a_broken_image_stops_packing_and_what_is_packed_is_kept(data: Data, tmp_path: Path) -> None:
    broken = Path(data.root) / "masks/train/006.png"
    sound = broken.read_bytes()
    broken.write_bytes(sound[:60])
    with pytest.raises(ValueError, match=r"masks/train/006\.png: cannot be read as PNG"):
        pack(data, str(tmp_path / "packed"))
    with pytest.raises(ValueError, match="an unfinished pack; rerun the `pixelcontrast data pack`"):
        build_dataset(replace(data, root=str(tmp_path / "packed")), "train")
    first = tmp_path / "packed/train/shard-00000.arrow"
    stamp = first.stat().st_mtime_ns
    broken.write_bytes(sound)
    pack(data, str(tmp_path / "packed"))
    assert first.stat().st_mtime_ns == stamp
    assert_same_samples(replace(data, root=str(tmp_path / "packed")), data)


def test_an_unfinished_pack_of_other_settings_is_refused(data: Data, tmp_path: Path) -> None:
    broken = Path(data.root) / "masks/train/006.png"
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        pack(data, str(tmp_path / "packed"))
    with pytest.raises(ValueError, match="holds an unfinished pack of other settings"):
        pack(data, str(tmp_path / "packed"), encoding="source")


def test_two_processes_do_not_pack_to_one_folder(data: Data, tmp_path: Path) -> None:
    dest = str(tmp_path / "packed")
    with (
        write._sole_writer(Storage(dest)),
        pytest.raises(ValueError, match="another process is packing to this folder"),
    ):
        pack(data, dest)


def test_an_object_store_holds_packs_and_is_staged_once(
    data: Data, tmp_path: Path, object_store: "ObjectStore", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging.tempfile, "gettempdir", lambda: str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    uri = object_store.uri(uuid.uuid4().hex)
    with pytest.raises(ValueError, match=r"no pack, as manifest\.json is missing"):
        build_dataset(replace(data, root=uri), "train")
    pack(data, uri)
    remote = replace(data, root=uri)
    check_data(remote)
    assert build_dataset(remote, "val").fingerprint == build_dataset(data, "val").fingerprint
    here = stage_pack(remote)
    assert_same_samples(here, data)
    object_store.refused = lambda _method, path: path.endswith(".arrow")
    try:
        assert stage_pack(remote) == here
    finally:
        object_store.refused = lambda _method, _path: False
    assert check_files(remote, processes=1).well


def test_processes_of_a_node_stage_a_pack_once_at_the_same_time(
    data: Data, tmp_path: Path, object_store: "ObjectStore"
) -> None:
    uri = object_store.uri(uuid.uuid4().hex)
    pack(data, uri)
    asked: list[str] = []

    def watch(method: str, path: str) -> bool:
        if method == "GET" and path.endswith(".arrow"):
            asked.append(path)
        return False

    object_store.refused = watch
    try:
        with FORKING.Pool(3) as pool:
            nodes = [tmp_path / name for name in ("alone", "together")]
            pool.apply(_stage_on, (nodes[0], replace(data, root=uri)))
            once = sorted(asked)
            asked.clear()
            roots = pool.starmap(_stage_on, [(nodes[1], replace(data, root=uri))] * 3, chunksize=1)
    finally:
        object_store.refused = lambda _method, _path: False
    assert len(set(roots)) == 1
    assert sorted(asked) == once
    assert len(set(once)) == 4  # shards
    assert_same_samples(replace(data, root=roots[0]), data)


def _stage_on(node: Path, remote: Data) -> str:
    """Stage in a process of its own, with a folder of temporary files as a node has one."""
    os.environ.update(CREDENTIALS)
    node.mkdir(exist_ok=True)
    staging.tempfile.tempdir = str(node)
    return stage_pack(remote).root


def test_a_damaged_shard_in_an_object_store_is_not_staged(
    data: Data, tmp_path: Path, object_store: "ObjectStore", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging.tempfile, "gettempdir", lambda: str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    storage = Storage(object_store.uri(uuid.uuid4().hex))
    pack(data, storage.location)
    content = bytearray(storage.read("val/shard-00000.arrow"))
    content[len(content) // 2] ^= 1
    storage.write("val/shard-00000.arrow", bytes(content))
    with pytest.raises(ValueError, match=r"val/shard-00000\.arrow is damaged: its sha256"):
        stage_pack(replace(data, root=storage.location))


def test_images_in_an_object_store_are_packed(
    data: Data, tmp_path: Path, object_store: "ObjectStore", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging.tempfile, "gettempdir", lambda: str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    storage = Storage(object_store.uri(uuid.uuid4().hex))
    storage.upload(data.root, "")
    local = stage_files(storage.location)
    pack(replace(data, root=local), str(tmp_path / "packed"))
    assert_same_samples(replace(data, root=str(tmp_path / "packed")), data)
