"""Steps whose numbers are not finite: named, or left out; never in a checkpoint, never the best."""

import itertools
import json
import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config, replace, training
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage, read_rows
from pixelcontrast.training import batches, loop
from pixelcontrast.training.step import Losses
from processes import run_ranks
from same_run import assert_same_run, differing_parts, learnt

CPU = torch.device("cpu")
STEPS, BATCH = 5, 3
WITH_CONTRAST, WITHOUT = {"contrast.rare_class_power": 0.5}, {"contrast.weight": 0.0}


def experiment(scenes: Path, storage: Path, overrides: dict[str, Any]) -> Experiment:
    small = Experiment(
        data=Data(layout="cityscapes", root=str(scenes), crop_size=(64, 64)),
        model=Model(backbone="test_resnet", embedding_dim=16, dropout=0.1),
        contrast=Contrast(memory="both", pixel_queue_size=20, num_positives=15, num_negatives=60),
        optim=Optim(steps=STEPS, batch_size=BATCH, lr=0.003),
        run=Run(name="a", storage=str(storage), report_interval=1, eval_interval=100, checkpoint_interval=2),
    )
    return replace(small, overrides)


def fit(settings: Experiment) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    training.fit(settings, device=CPU, report=rows.append)
    return rows


def spoil(bad: Collection[int], patch: pytest.MonkeyPatch) -> None:
    """One pixel of the last image of these global batches, counted from 1, becomes infinite."""
    original = batches.train_loader

    def loader(*args: Any, **settings: Any) -> Iterator[Batch]:
        for batch in original(*args, **settings):
            for position, image in zip(batch.positions.tolist(), batch.images, strict=True):
                if position // BATCH + 1 in bad and position % BATCH == BATCH - 1:
                    image[0, 5, 7] = torch.inf
            yield batch

    patch.setattr(batches, "train_loader", loader)


def leave_out(bad: Collection[int], patch: pytest.MonkeyPatch) -> None:
    """These steps are not made at all."""
    original, nan = loop.train_step, torch.tensor(torch.nan)

    def step(*args: Any, **settings: Any) -> Losses:
        if int(args[3].positions[0]) // BATCH + 1 in bad:
            contrast = None if args[1] is None else nan
            return Losses(nan, nan, contrast, auxiliary=None, gradient_norm=nan, kept=False)
        return original(*args, **settings)

    patch.setattr(loop, "train_step", step)


def fit_three(_rank: int, _world_size: int, text: str) -> list[list[dict[str, Any]]]:
    """Run a with a bad third step, b without a third step, c with none of that."""
    settings, rows = config.from_json(text), []
    for name, way, bad in (("a", spoil, [3]), ("b", leave_out, [3]), ("c", spoil, [])):
        with pytest.MonkeyPatch.context() as patch:
            way(bad, patch)
            rows.append(fit(replace(settings, {"run.name": name})))
    return rows


@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [(1, WITH_CONTRAST), (2, WITH_CONTRAST), (1, WITHOUT), pytest.param(2, WITHOUT, marks=pytest.mark.slow)],
    ids=["contrast-1", "contrast-2", "ce-1", "ce-2"],
)
def test_skip_leaves_a_bad_step_out_to_the_bit(
    world_size: int, overrides: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    """With two workers only the second one's image is bad. Negative control: with the third step made."""
    settings = experiment(scenes, tmp_path, overrides | {"optim.non_finite": "skip"})
    text = config.to_json(settings)
    ranks = [fit_three(0, 1, text)] if world_size == 1 else run_ranks(world_size, fit_three, text)
    for spoilt, without, _ in ranks:
        assert learnt(spoilt) == learnt(without) == learnt(ranks[0][0])
    rows = ranks[0][0]
    assert [row["skipped"] for row in rows if row["kind"] == "train"] == [0, 0, 1, 0, 0]
    assert rows[2]["loss"] is None
    assert rows[3]["gradient_norm"] > 0
    assert read_rows(open_storage(settings)) == rows
    assert differing_parts(settings, replace(settings, {"run.name": "b"})) == []
    assert "model.safetensors" in differing_parts(settings, replace(settings, {"run.name": "c"}))


def test_a_resumed_run_skips_as_one_that_was_not_interrupted(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken off in step 5, behind the checkpoint of step 4, with steps 2 to 4 left out."""
    settings = experiment(scenes, tmp_path, WITH_CONTRAST | {"optim.non_finite": "skip"})
    again = replace(settings, {"run.name": "b"})
    spoil([2, 3, 4], monkeypatch)
    with caplog.at_level(logging.WARNING):
        expected = fit(settings)
    assert [record.getMessage().split(", on ")[0] for record in caplog.records] == [
        f"left out a step: the loss of step {step} is nan" for step in (2, 3, 4)
    ]
    original = loop.train_step

    def broken_off(*args: Any, **more: Any) -> Losses:
        if int(args[3].positions[0]) // BATCH + 1 == 5:
            raise KeyboardInterrupt
        return original(*args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", broken_off)
        with pytest.raises(KeyboardInterrupt):
            fit(again)
    parts = checkpoint.load(open_storage(again), checkpoint.folder_of(4))
    assert json.loads(parts["loop.json"])["skipped_in_row"] == 3
    fit(again)
    assert learnt(expected) == learnt(read_rows(open_storage(settings)))
    assert_same_run(again, settings)


def test_the_tenth_step_left_out_in_a_row_ends_the_run(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it goes on in between; the network stays that of step 1."""
    overrides = {"optim.non_finite": "skip", "optim.steps": 20, "run.keep_checkpoints": 10}
    settings = experiment(scenes, tmp_path, WITHOUT | overrides)
    spoil(range(2, 21), monkeypatch)
    for _ in range(2):  # the second time from the checkpoint of step 10
        with pytest.raises(
            ValueError, match=r"^10 steps in a row .* the loss of step 11 is nan, on leftImg8bit"
        ):
            fit(settings)
    run = open_storage(settings)
    first, last = (checkpoint.load(run, checkpoint.folder_of(step)) for step in (2, 10))
    assert first["model.safetensors"] == last["model.safetensors"]
    assert json.loads(last["loop.json"])["skipped_in_row"] == 9


def names_of(settings: Experiment, step: int) -> str:
    """The images of a step, as the loader gives them."""
    dataset = build_dataset(settings.data, "train")
    shared: dict[str, Any] = {"seed": 0, "batch_size": BATCH, "rank": 0, "world_size": 1}
    batch = next(
        iter(batches.train_loader(dataset, settings.data, start_step=step - 1, steps=step, **shared))
    )
    paths = [dataset.pairs[index].image for index in batch.indices.tolist()]
    return ", ".join(str(path.relative_to(settings.data.root)) for path in paths)


@pytest.mark.parametrize("overrides", [WITH_CONTRAST, WITHOUT], ids=["contrast", "ce"])
def test_stop_names_the_first_bad_step_and_its_images(
    overrides: dict[str, Any], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two rows: step 3 of 1 to 4, of which 3 and 4 are bad; nothing later is saved."""
    intervals = {"run.report_interval": 4, "run.checkpoint_interval": 4, "run.eval_interval": 4}
    settings = experiment(scenes, tmp_path, overrides | intervals)
    spoil([3], monkeypatch)
    with pytest.raises(ValueError, match="is nan") as caught:
        fit(settings)
    assert str(caught.value) == (
        f"the loss of step 3 is nan, on {names_of(settings, 3)}: if these images are sound, the steps before "
        "were too large, so lower optim.lr (it is 0.003) or set optim.clip_norm"
    )
    run = open_storage(settings)
    assert not run.exists("checkpoints")
    assert read_rows(run) == []


def test_a_run_that_is_asked_to_stop_keeps_no_bad_step(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked after step 3, which is bad and in no row yet."""
    settings = experiment(
        scenes, tmp_path, WITHOUT | {"run.report_interval": 5, "run.checkpoint_interval": 5}
    )
    spoil([3], monkeypatch)
    asked = itertools.chain([False] * 3, itertools.repeat(True))
    with pytest.raises(ValueError, match=r"^the loss of step 3 is nan"):
        training.fit(settings, device=CPU, report=print, stop=lambda: next(asked))
    assert not open_storage(settings).exists("checkpoints")


def stop_rank(_rank: int, _world_size: int, text: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        spoil([3], patch)
        with pytest.raises(ValueError, match="is nan") as caught:
            fit(config.from_json(text))
    return str(caught.value)


def test_two_workers_stop_with_the_same_words(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(
        scenes, tmp_path, WITHOUT | {"run.report_interval": 4, "run.checkpoint_interval": 4}
    )
    first, second = run_ranks(2, stop_rank, config.to_json(settings))
    assert first == second
    assert first.startswith(f"the loss of step 3 is nan, on {names_of(settings, 3)}: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"optim.lr": 1e30, "optim.steps": 2},
            r"^the loss of step 2 is nan, on .* optim\.lr \(it is 1e\+30\)",
        ),
        (
            {"optim.lr": 3e38, "optim.steps": 1, "optim.weight_decay": 1e3},
            r"^after step 1 \S+ is not finite, although loss and gradients were: lower optim\.lr",
        ),
    ],
)
def test_a_rate_that_is_too_large_ends_the_run_before_anything_is_kept(
    overrides: dict[str, Any], message: str, scenes: Path, tmp_path: Path
) -> None:
    """With infinite weights the first evaluation would be a number, and the best so far."""
    settings = experiment(scenes, tmp_path, WITHOUT | overrides | {"run.report_interval": 2})
    with pytest.raises(ValueError, match=message):
        fit(settings)
    run = open_storage(settings)
    assert not run.exists("checkpoints")
    assert not run.exists("result.json")
    assert not [row for row in read_rows(run) if row["kind"] == "eval"]


def test_an_evaluation_without_a_labelled_pixel_is_an_error_and_not_the_best(
    tmp_path: Path, scenes: Path
) -> None:
    copied = tmp_path / "scenes"
    shutil.copytree(scenes, copied)
    for label in copied.glob("gtFine/val/*/*_labelIds.png"):
        Image.new("L", (128, 64)).save(label)  # 0 is "unlabeled"
    settings = experiment(copied, tmp_path, WITHOUT | {"run.eval_interval": 3})
    with pytest.raises(ValueError, match=r"scenes: no pixel of the 5 validation images is labelled"):
        fit(settings)
    run = open_storage(settings)
    assert run.names("checkpoints") == ["step-00000002"]
    parts = checkpoint.load(run, checkpoint.folder_of(2))
    assert json.loads(parts["loop.json"])["best_step"] == 0
