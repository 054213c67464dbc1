"""Every kind of network on real images: trained with contrast by two processes, broken off, resumed, used."""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config, load_model, replace, training
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage, read_result
from pixelcontrast.training import loop
from pixelcontrast.training.evaluate import evaluate
from processes import run_ranks
from same_run import assert_same_run, learnt

CPU = torch.device("cpu")
STEPS, BROKEN_OFF = 4, 3
IMAGES = {"train": 8, "val": 3}


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid's layout with a few of its images at 240×180 pixels: whole ones take a CPU minutes."""
    root, camvid = tmp_path_factory.mktemp("camvid"), Path(os.environ["CAMVID_ROOT"]).absolute()
    for split, count in IMAGES.items():
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
            for image in sorted((camvid / folder).glob("*.png"))[:count]:
                Image.open(image).resize((240, 180), Image.Resampling.NEAREST).save(
                    root / folder / image.name
                )
    return root


def fit_rank(_rank: int, _world_size: int, text: str, until: int) -> list[dict[str, Any]]:
    """Train, and break off on all ranks when the step after ``until`` begins; the rows that were reported."""
    rows: list[dict[str, Any]] = []
    original, calls = loop.train_step, itertools.count()

    class BrokenOffError(Exception):
        pass

    def step(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == until:
            raise BrokenOffError
        return original(*args, **kwargs)

    loop.train_step = step
    try:
        training.fit(config.from_json(text), device=CPU, report=rows.append)
    except BrokenOffError:
        pass
    finally:
        loop.train_step = original
    return rows


@pytest.mark.slow
@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [("hrnet_w18_small", "hrnet"), ("hrnet_w18_small", "ocr"), ("resnet50", "deeplabv3")],
)
def test_network_trains_resumes_and_is_used_without_the_head(
    backbone: str, decoder: Any, few_images: Path, tmp_path: Path
) -> None:
    settings = Experiment(
        data=Data(layout="camvid", root=str(few_images), crop_size=(64, 96)),
        model=Model(backbone=backbone, decoder=decoder, embedding_dim=32, dropout=0.05),
        contrast=Contrast(memory="both", pixel_queue_size=40, num_positives=20, num_negatives=80, warmup=0.0),
        optim=Optim(steps=STEPS, batch_size=4),
        run=Run(
            name="whole",
            storage=str(tmp_path),
            report_interval=1,
            eval_interval=STEPS,
            checkpoint_interval=STEPS,
        ),
    )
    first, second = run_ranks(2, fit_rank, config.to_json(settings), STEPS)
    assert learnt(first) == learnt(second)
    for row in (row for row in first if row["kind"] == "train"):
        parts = 0.4 * row.get("auxiliary", 0.0) + row["ce"] + row["contrast"]
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
        assert ("auxiliary" in row) == (decoder != "hrnet")

    resumed = replace(settings, {"run.name": "resumed", "run.checkpoint_interval": 2})
    run_ranks(2, fit_rank, config.to_json(resumed), BROKEN_OFF)
    after = run_ranks(2, fit_rank, config.to_json(resumed), STEPS)[0]
    assert [row["step"] for row in after if row["kind"] == "train"] == [3, 4]
    assert_same_run(resumed, settings)

    saved = checkpoint.load(open_storage(settings), checkpoint.folder_of(STEPS))
    assert_used_without_the_head(settings, saved["model.safetensors"])
    shutil.rmtree(tmp_path)  # pytest would keep up to 2 GB of it


def assert_used_without_the_head(settings: Experiment, content: bytes) -> None:
    """The plain network has the trained one's tensors but for the head's, and its scores to the digit."""
    run = open_storage(settings)
    model, tensors = load_model(run.path()), safetensors.torch.load(content)
    plain = model.state_dict()
    assert {key for key in tensors.keys() - plain.keys() if not key.startswith("projection.")} == set()
    assert all(torch.equal(tensors[key], value) for key, value in plain.items())
    result = read_result(run)
    assert result is not None
    val_set = build_dataset(settings.data, "val")
    assert len(val_set) == IMAGES["val"]
    scores = evaluate(model, val_set, device=CPU).scores
    assert {key: result[key] for key in scores} == scores
