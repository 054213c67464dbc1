"""``training.fit`` without Ray, in one process: what a run writes, and what is refused before it starts."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pixelcontrast import config, replace, training
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.models import SegmentationModel
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training.state import build_state
from small_fit import CPU, STEPS, FinishedRun, experiment, fit, fit_until, metrics


def test_run_folder_holds_what_was_reported(uninterrupted: FinishedRun) -> None:
    settings, reported = uninterrupted
    run = open_storage(settings)
    assert metrics(settings) == reported
    kinds = [(row["kind"], row["step"]) for row in reported]
    assert kinds == [("train", s) for s in (2, 3, 4)] + [("eval", 4), ("train", 6), ("train", 8), ("eval", 8)]
    assert config.from_json(run.read("experiment.json")) == settings
    assert [row["attempt"] for row in reported] == [1] * len(reported)
    for row in reported:
        if row["kind"] == "train":
            assert row["contrast"] > 0
            assert 0 <= row["hard_anchors"] <= 1
            assert -1 <= row["batch_positive_similarity"] <= 1
            assert row["gap"] == row["batch_positive_similarity"] - row["batch_negative_similarity"]
        else:
            for bank in ("pixel", "region"):
                fill, age = row[f"{bank}_fill"], row[f"{bank}_age"]
                assert fill.keys() == age.keys() == row["iou"].keys()
                assert 0 < fill["road"] <= 1
                assert 1 <= age["road"] <= row["step"]
                assert all((age[name] is None) == (fill[name] == 0) for name in fill)

    table = pq.read_table(io.BytesIO(run.read("metrics.parquet"))).to_pylist()
    assert [row["step"] for row in table] == [row["step"] for row in reported]
    assert table[3]["iou/road"] == reported[3]["iou"]["road"]
    events = EventAccumulator(run.path("tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/miou")] == [
        (row["step"], pytest.approx(row["miou"])) for row in reported if row["kind"] == "eval"
    ]
    confusion = json.loads(run.read("confusion.json"))
    counts = torch.tensor(confusion["pixels"])
    assert confusion["step"] == STEPS
    assert counts.diagonal().sum() / counts.sum() == pytest.approx(reported[-1]["pixel_accuracy"])
    for step in (4, 8):
        picture = Image.open(io.BytesIO(run.read(f"overlays/step-{step:08d}.png")))
        assert picture.width > 3 * 128


def test_who_may_stop_a_run_sees_its_progress_step_by_step_and_image_by_image(
    scenes: Path, tmp_path: Path
) -> None:
    """Without steps too, through a long evaluation; an answer to an image ends nothing by itself."""
    settings = experiment(scenes, tmp_path, contrast__weight=0.0, optim__steps=2, run__eval_interval=1)
    images, asked = len(build_dataset(settings.data, "val")), []

    def stop() -> bool:
        asked.append(len(metrics(settings)))
        return 1 < len(asked) <= 1 + images

    training.fit(settings, device=CPU, report=lambda _: None, stop=stop)
    assert asked == [0, *[1] * images, 2, *[3] * images]  # rows when it was asked
    assert training.check(settings) is not None


def test_finished_run_says_so(uninterrupted: FinishedRun) -> None:
    settings, reported = uninterrupted
    result = training.check(settings)
    assert result is not None
    assert result["miou"] == reported[-1]["miou"]
    best = max((row for row in reported if row["kind"] == "eval"), key=lambda row: row["miou"])
    assert result["best"] == {"step": best["step"], "miou": best["miou"]}
    run = open_storage(settings)
    for name in (result["checkpoint"], result["best_checkpoint"]):
        provenance = json.loads(checkpoint.load(run, name)["provenance.json"])
        assert provenance == result["provenance"]
    assert {"git", "source", "configuration", "data", "versions", "machine"} <= result["provenance"].keys()
    counts = ("threads", "seed", "world_size", "attempt")
    assert [result["provenance"][name] for name in counts] == [1, 0, 1, 1]


def test_another_configuration_is_refused_by_key(uninterrupted: FinishedRun) -> None:
    settings, _ = uninterrupted
    changed = replace(settings, {"contrast.temperature": 0.3, "optim.lr": 1.0, "run.report_interval": 1})
    with pytest.raises(
        ValueError, match=r"contrast\.temperature was 0\.2 and is now 0\.3\n  optim\.lr was"
    ) as caught:
        training.check(changed)
    assert "report_interval" not in str(caught.value)


def test_training_evaluation_and_overlays_normalise_as_the_backbone_expects(
    scenes: Path, tmp_path: Path
) -> None:
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def look(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, SegmentationModel):
            seen[module.training].append(args[0])

    settings = experiment(
        scenes,
        tmp_path,
        model__backbone="tf_efficientnet_lite0",
        optim__steps=1,
        data__scale_range=(0.5, 0.5),
    )
    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        fit(settings)
    val_set = build_dataset(settings.data, "val")
    evaluated, drawn = seen[False][: len(val_set)], seen[False][len(val_set) :]
    wanted = [val_set.read(index)[0].float() / 127.5 - 1 for index in range(len(val_set))]
    for images, want in zip(evaluated, wanted, strict=True):
        torch.testing.assert_close(images[0], want)
    assert all(any(torch.allclose(images[0], want, atol=1e-5) for want in wanted) for images in drawn)
    assert drawn
    (crops,) = seen[True]
    assert -1 <= crops.min() < crops.max() <= 1  # by ImageNet's numbers the darkest pixels are at -2.1
    assert (crops == 0).all(dim=1).float().mean() > 0.4  # around the images, which are half a crop high


def test_overlays_are_drawn_in_the_precision_of_the_evaluation(scenes: Path, tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(module: torch.nn.Module, _args: tuple[Any, ...]) -> None:
        if isinstance(module, SegmentationModel) and not module.training:
            seen.append(torch.is_autocast_enabled("cpu"))

    short = {"optim__steps": 1, "contrast__weight": 0.0}
    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        fit(experiment(scenes, tmp_path, run__precision="bfloat16", **short))
    assert seen == [True] * (5 + 4)  # validation images, and overlays of four of them


def test_float32_products_are_as_precise_as_the_run_asks_for(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    fit(experiment(scenes, tmp_path, contrast__weight=0.0, optim__steps=1, run__matmul_precision="high"))
    assert asked == ["high"]


def test_baseline_has_neither_head_nor_memory(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path, contrast__weight=0.0, optim__steps=2)
    rows = fit(settings)
    assert "contrast" not in rows[0]
    assert rows[0]["loss"] == rows[0]["ce"]
    parts = checkpoint.load(open_storage(settings), checkpoint.folder_of(2))
    assert not any("memory" in part for part in parts)
    assert b"projection" not in parts["model.safetensors"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__root": "/nowhere"}, "/nowhere"),
        ({"model__backbone": "hrnet_w19"}, "hrnet_w19"),
        (
            {"model__backbone": "hrnet_w18_small", "model__decoder": "deeplabv3"},
            "model.decoder: deeplabv3",
        ),
        ({"model__weights": "/nowhere/weights.pth"}, "/nowhere/weights.pth"),
        ({"optim__class_weights": (1.0, 2.0)}, "optim.class_weights: 2 numbers for 19 classes: road"),
        ({"run__storage": "nosuch://bucket"}, "nosuch://bucket"),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    overrides: dict[str, Any], message: str, scenes: Path, tmp_path: Path
) -> None:
    settings = experiment(scenes, tmp_path, **overrides)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        training.check(settings)
    assert not list(tmp_path.iterdir())


def test_a_frozen_backbone_keeps_its_statistics_before_the_first_evaluation_and_after_a_resume(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = {"model__freeze_backbone": True, "model__decoder": "linear", "contrast__weight": 0.0}
    kept = {"run__eval_interval": STEPS, "run__keep_checkpoints": STEPS}
    settings = experiment(scenes, tmp_path, **frozen, **kept)
    fit_until(5, settings, monkeypatch)
    fit(settings)
    model = build_state(settings, num_classes=19, num_images=10, device=CPU).model
    fresh = {f"backbone.{name}": tensor for name, tensor in model.backbone.named_buffers()}
    run = open_storage(settings)
    for step in (3, STEPS):
        saved = safetensors.torch.load(checkpoint.load(run, checkpoint.folder_of(step))["model.safetensors"])
        assert all(torch.equal(saved[name], tensor) for name, tensor in fresh.items())
