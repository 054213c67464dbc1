"""What goes wrong around a training is said in one line, with the file or the key and what to do."""

import errno
import os
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from pixelcontrast import config
from pixelcontrast.cli.terminal import failures_told
from pixelcontrast.cluster.local import usable_gpus
from pixelcontrast.cluster.train import launch as launching
from pixelcontrast.cluster.train.worker import checked, reason_of
from pixelcontrast.datasets.loading import eval_loader, train_loader
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.reading import read
from pixelcontrast.search.settings import Search
from pixelcontrast.storage import Storage
from pixelcontrast.training.check_experiment import check_compiler, check_inputs
from pixelcontrast.training.evaluate import predict
from searches import SPACE, experiment


@pytest.fixture
def damaged(scenes: Path, tmp_path: Path) -> SegmentationSet:
    """A training set whose first image is cut off."""
    folder = tmp_path / "scenes"
    for path in scenes.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(scenes)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    found = build_dataset(experiment(folder, tmp_path).data, "train")
    image = found.pairs[0].image
    image.write_bytes(image.read_bytes()[:200])
    return found


@pytest.mark.parametrize("processes", [0, 1])
def test_a_damaged_file_is_one_line_from_a_loader_process_too(
    damaged: SegmentationSet, tmp_path: Path, processes: int
) -> None:
    settings = experiment(damaged.root, tmp_path)
    data = config.replace(settings, {"data.loader_processes": processes}).data
    training = train_loader(damaged, data, seed=0, batch_size=5, start_step=0, steps=2, rank=0, world_size=1)
    evaluation = eval_loader(damaged, rank=0, world_size=1, loader_processes=processes)
    for loader in (training, evaluation):
        with pytest.raises(ValueError, match="cannot be read as PNG or JPEG") as caught:
            list(loader)
        text = str(caught.value)
        assert text.startswith(str(damaged.pairs[0].image))
        assert text.endswith("; copy or download the file again; it must be PNG or JPEG")
        assert "\n" not in text


def test_a_loader_process_that_is_ended_is_one_line_with_what_to_do(scenes: Path, tmp_path: Path) -> None:
    found = _Ending(**vars(build_dataset(experiment(scenes, tmp_path).data, "train")))
    loader = eval_loader(found, rank=0, world_size=1, loader_processes=1)
    with pytest.raises(RuntimeError, match=r"^data\.loader_processes: .*df -h /dev/shm.*lower") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


class _Ending(SegmentationSet):
    """Ends the process that reads it, as a full shared memory does."""

    def read(self, index: int) -> NoReturn:
        os._exit(index + 1)


def test_a_warmup_of_all_steps_is_refused_before_the_start(scenes: Path, tmp_path: Path) -> None:
    settings = config.replace(experiment(scenes, tmp_path), {"contrast.warmup": 0.9, "optim.steps": 11})
    check_inputs(settings)
    all_steps = config.replace(settings, {"contrast.warmup": 0.95})
    with pytest.raises(
        ValueError, match=r"contrast\.warmup is 0\.95 and optim\.steps 11: .* raise optim\.steps"
    ):
        check_inputs(all_steps)
    check_inputs(config.replace(all_steps, {"contrast.weight": 0.0}))


LARGER = r"optim\.batch_size to 2, or take a larger data\.crop_size$"


@pytest.mark.parametrize(
    ("model", "crop", "says"),
    [
        ({"model.backbone": "hrnet_w18_small"}, (32, 32), rf"backbone\.\S+ would see one value .* {LARGER}"),
        ({"model.backbone": "hrnet_w18_small"}, (32, 64), None),
        ({"model.backbone": "vit_tiny_patch16_224"}, (32, 32), None),
        ({"model.backbone": "skresnet18"}, (64, 64), r"backbone\.layer1\.0\.conv1\.attn\.bn would .* to 2$"),
        (
            {"model.backbone": "resnet18", "model.decoder": "deeplabv3"},
            (64, 64),
            r"decoder\.aspp\.\S+ .* to 2$",
        ),
        ({"model.decoder": "ocr"}, (64, 64), None),
    ],
)
def test_one_image_that_leaves_a_batchnorm_one_value_is_refused_before_the_start(
    scenes: Path, tmp_path: Path, model: dict[str, object], crop: tuple[int, int], says: str | None
) -> None:
    given = {"model.backbone": "resnet18", **model, "data.crop_size": crop}
    settings = config.replace(experiment(scenes, tmp_path), given)
    check_inputs(config.replace(settings, {"optim.batch_size": 2}))
    one = config.replace(settings, {"optim.batch_size": 1})
    if says is None:
        check_inputs(one)
    else:
        with pytest.raises(ValueError, match=rf"^optim\.batch_size is 1: the network's {says}"):
            check_inputs(one)


def test_a_frozen_backbone_of_random_weights_is_refused_before_the_start(
    scenes: Path, tmp_path: Path
) -> None:
    given = {"model.freeze_backbone": True, "contrast.weight": 0.0, "optim.batch_size": 2}
    with pytest.raises(
        ValueError, match=r"^model\.freeze_backbone: model\.weights is none, .* timm or a file"
    ):
        check_inputs(config.replace(experiment(scenes, tmp_path), given))


def test_a_missing_compiler_is_found_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"^run\.compile: .*c\+\+, g\+\+, clang\+\+; install one"):
        check_compiler()
    compiler = tmp_path / "mine"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "mine")
    check_compiler()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
            "/runs/a: Permission denied; ask its",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
            "/runs/a: No space left on device; free",
        ),
        (OSError("[Errno 13] Failed to open '/runs/b'\nDetail: more"), "[Errno 13] Failed to open '/runs/b'"),
    ],
)
def test_a_file_that_the_system_refuses_ends_a_command_in_one_line(error: OSError, text: str) -> None:
    with pytest.raises(SystemExit) as stop, failures_told(resume=""):
        raise error
    assert str(stop.value.code).startswith(text)
    assert "\n" not in str(stop.value.code)


FULL_TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which "
    "1.25 GiB is free. "
)
FULL = torch.OutOfMemoryError(FULL_TOLD + "Of the allocated memory 77.90 GiB is in use.\nMore")


def test_a_full_gpu_ends_a_command_in_one_line_with_what_to_do() -> None:
    with pytest.raises(SystemExit) as stop, failures_told(resume=""):
        raise FULL
    assert stop.value.code == (
        FULL_TOLD + "Give --device cpu, or have pixelcontrast evaluate use a smaller --protocol.window"
    )
    with pytest.raises(RuntimeError, match="another"), failures_told(resume=""):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (
            {"contrast.memory": "none"},
            " or data.crop_size (it is (32, 64)), or set run.precision to bfloat16",
        ),
        (
            {"contrast.memory": "both", "run.precision": "bfloat16"},
            ", data.crop_size (it is (32, 64)), contrast.pixel_queue_size or contrast.region_memory_size",
        ),
    ],
)
def test_a_full_gpu_is_final_and_names_the_settings_that_take_less(
    scenes: Path, tmp_path: Path, overrides: dict[str, Any], remedy: str
) -> None:
    settings = experiment(scenes, tmp_path)
    settings = config.replace(settings, {"data.crop_size": (32, 64), "optim.batch_size": 2} | overrides)
    told = f"OutOfMemoryError: {FULL_TOLD}Lower optim.batch_size (it is 2){remedy}"
    assert reason_of(FULL, settings) == (told, True)
    assert reason_of(RuntimeError("another"), settings) == ("RuntimeError: another", False)


@pytest.mark.parametrize(
    ("precision", "first"), [("float32", "set run.precision to bfloat16, "), ("bfloat16", "")]
)
def test_a_gpu_that_a_validation_image_fills_is_not_told_to_lower_the_batch(
    scenes: Path, tmp_path: Path, precision: str, first: str
) -> None:
    settings = config.replace(experiment(scenes, tmp_path), {"run.precision": precision})

    def full(_images: torch.Tensor) -> None:
        raise torch.OutOfMemoryError(FULL_TOLD)

    with pytest.raises(torch.OutOfMemoryError) as raised:
        predict(full, torch.zeros(1, 3, 20, 30))  # type: ignore[arg-type]
    told, final = reason_of(raised.value, settings)
    assert final
    assert told == (
        f"OutOfMemoryError: {FULL_TOLD}A whole validation image of 30×20 pixels was being evaluated: {first}"
        "shrink the validation images as files, or take a GPU with more memory"
    )


def test_a_gpu_that_torch_cannot_use_is_named_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an old driver: the GPU can be counted, and no more."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert usable_gpus() == 0
    assert checked(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"run\.device: .* driver .* CUDA .*--run\.device cpu") as caught:
        checked(torch.device("cuda", 0))
    assert str(torch.version.cuda) in str(caught.value)


def test_a_folder_that_may_not_be_read_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, f"Failed stat()ing path '{tmp_path}/search.json'")

    monkeypatch.setattr(Storage, "exists", refuse)
    with pytest.raises(ValueError, match=rf"^{tmp_path} cannot be read: .*search.json'; ask its owner"):
        read(str(tmp_path))


def test_a_home_that_cannot_be_made_is_named(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(Storage, "is_local", False)  # as in an object store, whose study lies at home
    folder = SearchFolder(experiment(scenes, tmp_path), Search(space=SPACE, trials=1), None)
    with (
        pytest.raises(ValueError, match=r"home/.cache/pixelcontrast/.* cannot be made.* Set HOME"),
        folder.held(),
    ):
        pass


@pytest.mark.parametrize(("number", "refused"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if refused:
        with pytest.raises(OSError, match=os.strerror(number)):
            Storage(str(tmp_path)).write("a", b"content")
    else:
        Storage(str(tmp_path)).write("a", b"content")
        assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize(("width", "what"), [(9_000, "9000×9000 pixels"), (20_000, "too many pixels")])
def test_an_image_over_the_cap_is_named_with_what_to_do(
    damaged: SegmentationSet, width: int, what: str
) -> None:
    """Also where Pillow refuses to open it at all."""
    image = damaged.pairs[0].image
    Image.new("1", (width, 9_000)).save(image)
    with pytest.raises(ValueError, match=f"{what}; allowed are at most 80,000,000; cut it"):
        damaged.read(0)


@pytest.mark.parametrize(
    ("address", "stage"),
    [("local", "starting Ray on this machine"), ("10.0.0.1:6379", "connecting to Ray at 10.0.0.1:6379")],
)
def test_what_is_waited_for_first_is_said(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, stage: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(launching, "held", Mock(side_effect=ValueError("enough")))
    stages: list[str] = []
    with pytest.raises(ValueError, match="enough"):
        launching.launch(experiment(scenes, tmp_path), on_row=print, on_stage=stages.append)
    assert stages == [stage]
