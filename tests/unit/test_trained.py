"""A run's network, loaded again for use."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from object_store import ObjectStore
from pixelcontrast import Data, Model, load_model
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.inference import export_model
from pixelcontrast.runs import checkpoint
from pixelcontrast.storage import Storage
from pixelcontrast.training.evaluate import evaluate
from small_runs import metrics_row
from small_sets import some_ids, write_image, write_label
from trained_runs import BEST, images, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Tensor]]:
    """A finished run with three checkpoints, and each one's logits; the backbone's weights are gone."""
    folder, logits = write_run(tmp_path_factory.mktemp("runs"))
    return Path(folder), logits


def logits_of(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(images()).logits


def test_best_network_gives_the_same_logits_without_the_projection_head(written: Any) -> None:
    folder, logits = written
    generator = torch.get_rng_state()
    model = load_model(folder)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    assert model.projection is None
    assert not [name for name in model.state_dict() if name.startswith("projection")]
    assert torch.equal(logits_of(model), logits[BEST])
    output = model(images())
    assert output.features is None
    assert output.auxiliary is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_step_or_the_newest_of_an_unfinished_run(written: Any, tmp_path: Path) -> None:
    folder, logits = written
    assert torch.equal(logits_of(load_model(str(folder), step=2)), logits[2])
    shutil.copytree(folder, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    assert torch.equal(logits_of(load_model(tmp_path / "unfinished")), logits[6])


def test_what_is_missing_or_damaged_is_named(written: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no run here, as experiment\.json is missing"):
        load_model("/nowhere")
    folder = tmp_path / "a"
    shutil.copytree(written[0], folder)
    with pytest.raises(ValueError, match=r"no checkpoints/step-00000003; there are step-00000002, step-0"):
        load_model(folder, step=3)
    weights = folder / checkpoint.folder_of(BEST) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"/a: checkpoints/step-00000004/model\.safetensors was altered"):
        load_model(folder)
    load_model(folder, step=6)
    shutil.rmtree(weights.parent)
    gone = r"checkpoints/step-00000004, the best, is gone; there are step-00000002, step-00000006: name one"
    with pytest.raises(ValueError, match=gone):
        load_model(folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match=r"/a: there is no checkpoint yet"):
        load_model(folder)
    (folder / "experiment.json").write_text("{}")
    with pytest.raises(ValueError, match=r"/a/experiment\.json cannot be read"):
        load_model(folder)


def test_a_checkpoint_s_folder_or_its_weights_are_that_checkpoint(written: Any, tmp_path: Path) -> None:
    folder, logits = written
    step = folder / checkpoint.folder_of(6)
    for place in (step, step / "model.safetensors"):
        model = load_model(place)
        assert torch.equal(logits_of(model), logits[6])
        source = model.metadata.source
        assert (source.run, source.step, source.commit) == (str(folder), 6, "0123abc")
    with pytest.raises(ValueError, match=r"step 2: .*step-00000006 is one checkpoint"):
        load_model(step, step=2)
    shutil.copytree(step, tmp_path / "taken" / "away")
    assert torch.equal(logits_of(load_model(tmp_path / "taken" / "away")), logits[6])


def test_a_run_in_an_object_store_is_loaded(written: Any, object_store: ObjectStore) -> None:
    folder, logits = written
    Storage(object_store.uri("")).upload(folder, "runs/a")
    model = load_model(object_store.uri("runs/a"))
    assert torch.equal(logits_of(model), logits[BEST])
    assert model.metadata.source.run == object_store.uri("runs/a")


def test_predict_gives_the_classes_of_a_picture_at_its_size(written: Any) -> None:
    model = load_model(written[0])
    pixels = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    classes = model.predict(pixels)
    assert classes.dtype == np.uint8
    assert classes.shape == (37, 51)
    scaled = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))
    with torch.inference_mode():
        logits = model(((scaled - mean) / std)[None]).logits[0]
    sure = logits.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-3
    assert (classes == logits.argmax(0).numpy())[sure.numpy()].all()
    np.testing.assert_array_equal(model.predict(Image.fromarray(pixels)), classes)
    grey = pixels[..., 0]
    np.testing.assert_array_equal(model.predict(grey), model.predict(Image.fromarray(grey)))
    assert model.predict(pixels[:1, :1]).shape == (1, 1)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]; allowed are a PIL image, and uint8 arrays"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \[3, 4, 4\]; allowed"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \[0, 5, 3\]; allowed .* of one pixel or more"),
        (Image.new("RGBA", (4, 4)), "transparent pixels"),
        (Image.new("I;16", (4, 4)), r"image: mode I;16 is not supported; allowed are 8-bit RGB, RGBA, L, P"),
        (Image.new("I", (4, 4)), "mode I is not supported"),
        (Image.new("F", (4, 4)), "mode F is not supported"),
    ],
)
def test_predict_refuses_what_is_no_picture(image: Any, says: str, written: Any) -> None:
    with pytest.raises(ValueError, match=says):
        load_model(written[0]).predict(image)


def test_classes_are_named_as_the_run_recorded_them(written: Any, tmp_path: Path) -> None:
    model = load_model(written[0])
    assert model.classes[3] == "road"
    assert model.metadata.palette[3] == (128, 64, 128)
    folder, _ = write_run(tmp_path, data=Data(layout="folder", root="/nowhere"), num_classes=2, steps=(2,))
    assert load_model(folder).classes == ("class 0", "class 1")
    row = metrics_row(2, "eval") | {"iou": {"cat": 0.5, "dog": None}}
    (Path(folder) / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert load_model(folder).classes == ("cat", "dog")
    assert len(set(load_model(folder).metadata.palette)) == 2


def test_own_colors_are_those_of_training_and_the_data_set_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, own = tmp_path / "photos", {"a": (1, 2, 3), "b": (40, 50, 60)}
    write_image(root / "images/val/a.png")
    write_label(root / "masks/val/a.png", some_ids(2))
    classes = [f"[[classes]]\nname = '{name}'\ncolor = {[*color]}\n" for name, color in own.items()]
    paths = 'images = "images/{split}"\nmasks = "masks/{split}"\n'
    (root / "dataset.toml").write_text(paths + "".join(classes))
    data = Data(layout="folder", root=str(root))
    folder, _ = write_run(tmp_path, data=data, num_classes=2, steps=(2,))
    scores, confusion = evaluate(load_model(folder), build_dataset(data, "val"), device=torch.device("cpu"))
    shutil.rmtree(root)
    (Path(folder) / "metrics.jsonl").write_text(json.dumps(metrics_row(2, "eval") | scores) + "\n")
    assert not set(load_model(folder).metadata.palette) & {*own.values()}  # of a run that did not record them
    (Path(folder) / "confusion.json").write_text(json.dumps({"step": 2} | confusion))
    monkeypatch.delattr("pixelcontrast.inference.classes.list_split")  # of a store it may take minutes
    metadata = load_model(folder).metadata
    assert dict(zip(metadata.classes, metadata.palette, strict=True)) == own


@pytest.mark.parametrize(
    "model",
    [
        Model(backbone="swin_tiny_patch4_window7_224", embedding_dim=8),
        Model(backbone="vit_tiny_patch16_dinov3_qkvb", decoder="linear", embedding_dim=8),
        Model(backbone="test_convnext", embedding_dim=8),
    ],
    ids=lambda model: model.backbone,
)
def test_what_a_network_computes_and_no_file_holds_is_there_too(model: Model, tmp_path: Path) -> None:
    """Swin's indices and rotary embeddings are buffers that are not saved."""
    folder, logits = write_run(tmp_path, model=model, steps=(4,))
    before = torch.get_rng_state()
    trained = load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert not [name for name, buffer in trained.named_buffers() if buffer.is_meta]
    with torch.inference_mode():
        torch.testing.assert_close(trained(images()).logits, logits[4])
    file = export_model(trained, "safetensors", out=str(tmp_path / "a.safetensors"))
    with torch.inference_mode():
        torch.testing.assert_close(load_model(file)(images()).logits, logits[4])
