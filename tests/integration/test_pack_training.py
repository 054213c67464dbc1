"""``training.fit`` on packs: the bits of the folder's run, damaged samples, and other data at a resume."""

import json
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import pytest
import torch

from packs import TOML, write_folder
from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, replace, training
from pixelcontrast.datasets.packing import write
from pixelcontrast.runs.reproduce import reproduce
from pixelcontrast.runs.run_folder import open_storage, read_rows
from same_run import assert_same_run


@pytest.fixture
def folder(tmp_path: Path) -> Data:
    return with_fields(write_folder(tmp_path / "photos", num_train=6, num_val=2), crop_size=(32, 32))


def experiment(data: Data, storage: Path, name: str, **overrides: Any) -> Experiment:
    small = Experiment(
        data=data,
        model=Model(backbone="test_resnet", embedding_dim=16),
        contrast=Contrast(memory="pixel", pixel_queue_size=20, num_positives=15, num_negatives=60),
        optim=Optim(steps=4, batch_size=3),
        run=Run(name=name, storage=str(storage), report_interval=1, eval_interval=4, checkpoint_interval=2),
    )
    return replace(small, {key.replace("__", "."): value for key, value in overrides.items()})


def fit(settings: Experiment, steps: int | None = None) -> None:
    """To the end, or until a checkpoint after some steps."""
    asked = iter(range(100))
    stop = (lambda: next(asked) >= steps) if steps is not None else (lambda: False)
    training.fit(settings, device=torch.device("cpu"), report=lambda _: None, stop=stop)


def test_a_run_moved_to_a_pack_midway_has_the_bits_of_the_folder_s(folder: Data, tmp_path: Path) -> None:
    write.pack(folder, str(tmp_path / "packed"))
    whole, moved = (experiment(folder, tmp_path, name) for name in ("whole", "moved"))
    fit(whole)
    fit(moved, steps=2)
    moved = replace(moved, {"data.root": str(tmp_path / "packed"), "data.loader_processes": 1})
    assert training.check(moved) is None
    fit(moved)
    assert_same_run(moved, whole)
    shares = [row["data_wait_share"] for row in read_rows(open_storage(moved)) if row["kind"] == "train"]
    assert len(shares) == 4
    assert all(0 < share < 1 for share in shares)


def test_a_damaged_sample_stops_the_run_and_is_skipped_and_listed_on_request(
    folder: Data, tmp_path: Path
) -> None:
    path = Path(folder.root) / "masks/train/002.png"
    path.write_bytes(path.read_bytes()[:60])
    settings = experiment(folder, tmp_path, "damaged")
    with pytest.raises(ValueError, match=r"masks/train/002\.png: cannot be read"):
        fit(settings)
    settings = replace(settings, {"data.on_bad_sample": "skip"})
    assert training.check(settings) is None
    fit(settings, steps=3)
    fit(settings)
    result = json.loads(open_storage(settings).read("result.json"))
    assert result["bad_samples"] == {"images/train/002.png": 2}  # 12 positions, two epochs of six
    assert open_storage(settings).exists("metrics.parquet")


def test_samples_that_an_earlier_attempt_skipped_stay_listed_and_are_skipped_again(
    folder: Data, tmp_path: Path
) -> None:
    """The file is restored midway, and the run resumed as it stops at bad samples by default."""
    path = Path(folder.root) / "masks/train/002.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(len(whole) - 60))
    settings = experiment(folder, tmp_path, "restored", data__on_bad_sample="skip")
    fit(settings, steps=2)
    path.write_bytes(whole)
    settings = replace(settings, {"data.on_bad_sample": "stop"})
    fit(settings)
    result = json.loads(open_storage(settings).read("result.json"))
    assert result["bad_samples"] == {"images/train/002.png": 2}, "both before the file was restored"
    assert " --data.on-bad-sample skip" in reproduce(tmp_path / "restored")


def test_an_edited_dataset_toml_is_refused_before_the_start(folder: Data, tmp_path: Path) -> None:
    settings = experiment(folder, tmp_path, "edited")
    fit(settings, steps=2)
    assert training.check(settings) is None
    (Path(folder.root) / "dataset.toml").write_text(TOML.replace("[7]", "[7, 8]"))
    with pytest.raises(ValueError, match=r"their classes are not those that run edited began with"):
        training.check(settings)
