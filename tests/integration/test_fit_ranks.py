"""``training.fit`` in two gloo processes."""

import json
from pathlib import Path

import pytest

from pixelcontrast import config, load_model, replace, training
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training.evaluate import evaluate
from pixelcontrast.training.state import build_state
from processes import run_ranks
from same_run import assert_same_run, learnt
from small_fit import CPU, experiment, fit, fit_ranks, metrics


def fit_and_stop(rank: int, world_size: int, text: str, at: int) -> int | None:
    """Only the last rank is asked to stop, when step ``at`` begins."""
    settings, asked = config.from_json(text), []

    def stop() -> bool:
        asked.append(rank)
        return rank == world_size - 1 and len(asked) > at

    return training.fit(settings, device=CPU, report=lambda _: None, stop=stop)


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_of_that_step(
    world_size: int, scenes: Path, tmp_path: Path
) -> None:
    """All ranks stop after the same step, the one in which any of them was asked; nothing is done twice."""
    settings = experiment(scenes, tmp_path, run__checkpoint_interval=100, run__eval_interval=100)
    settings = replace(settings, {"run.report_interval": 1})
    text = config.to_json(settings)
    assert run_ranks(world_size, fit_and_stop, text, 4) == [5] * world_size
    assert open_storage(settings).names("checkpoints") == ["step-00000005"]
    assert run_ranks(world_size, fit_and_stop, text, 0) == [6] * world_size
    assert run_ranks(world_size, fit_and_stop, text, 100) == [None] * world_size
    rows = metrics(settings)
    assert [(row["step"], row["attempt"]) for row in rows if row["kind"] == "train"] == [
        *((step, 1) for step in range(1, 6)),
        (6, 2),
        (7, 3),
        (8, 3),
    ]
    reference = replace(settings, {"run.name": "reference"})
    run_ranks(world_size, fit_ranks, config.to_json(reference))
    assert_same_run(settings, reference)


def test_two_processes_train_and_count_each_image_once(scenes: Path, tmp_path: Path) -> None:
    """Five validation images on two ranks: the scores are those of one process with the same weights."""
    settings = experiment(scenes, tmp_path, optim__steps=3, contrast__warmup=0.0, model__dropout=0.0)
    first, second = run_ranks(2, fit_ranks, config.to_json(settings))
    assert learnt(first) == learnt(second)
    one = fit(replace(settings, {"run.name": "one"}))
    for ours, theirs in zip(learnt(first), learnt(one), strict=True):
        if ours["kind"] == "train":
            # In float32 rounding may flip which pixels are hard; tests/parity compares in float64.
            assert ours["ce"] == pytest.approx(theirs["ce"], rel=1e-2)
            assert ours["contrast"] == pytest.approx(theirs["contrast"], rel=1e-2)

    val_set = build_dataset(settings.data, "val")
    state = build_state(settings, num_classes=19, num_images=10, device=CPU)
    state.restore(checkpoint.load(open_storage(settings), checkpoint.folder_of(3)))
    again = evaluate(state.model, val_set, device=CPU).scores
    assert {key: first[-1][key] for key in again} == again


def test_two_processes_train_ocr_and_its_network_is_used_without_the_head(
    scenes: Path, tmp_path: Path
) -> None:
    """Every parameter has a gradient in every step, or DDP would fail in the second."""
    settings = experiment(scenes, tmp_path, optim__steps=2, model__decoder="ocr", optim__auxiliary_weight=0.5)
    settings = replace(settings, {"run.report_interval": 1})
    rows, others = run_ranks(2, fit_ranks, config.to_json(settings))
    assert learnt(rows) == learnt(others)
    for row in rows[:2]:
        total = row["ce"] + 0.5 * row["auxiliary"] + row["contrast"]  # in warm-up, too: the head's loss
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    model = load_model(tmp_path / "small")
    assert model.projection is None
    scores = evaluate(model, build_dataset(settings.data, "val"), device=CPU).scores
    assert {key: rows[-1][key] for key in scores} == scores


def test_a_memory_shared_by_two_processes_is_in_the_run_s_checkpoints(scenes: Path, tmp_path: Path) -> None:
    """Both parts are written, and a run that goes on from them ends as the one that was not broken off."""
    settings = experiment(scenes, tmp_path, optim__steps=4, contrast__memory_sharded=True)
    run_ranks(2, fit_ranks, config.to_json(settings))
    run, name = open_storage(settings), checkpoint.folder_of(4)
    parts = checkpoint.load(run, name)
    assert {"memory-0-of-2.safetensors", "memory-1-of-2.safetensors"} <= parts.keys()
    run.delete_folder(name, first=checkpoint.MANIFEST)
    Path(run.path("result.json")).unlink()
    run_ranks(2, fit_ranks, config.to_json(settings))
    again = checkpoint.load(run, name)
    assert json.loads(run.read("attempts.jsonl").splitlines()[-1])["from_step"] == 3
    for part in ("model.safetensors", "memory-0-of-2.safetensors", "memory-1-of-2.safetensors"):
        assert again[part] == parts[part], part
