"""Exported files give the plain network: its parameters, operators and outputs."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from object_store import ObjectStore
from pixelcontrast import Data, Model, load_model
from pixelcontrast.inference import TrainedModel, export_model
from pixelcontrast.models import build_model
from pixelcontrast.runs import checkpoint
from small_runs import metrics_row
from trained_runs import images, write_run

SMALL = Model(backbone="hrnet_w18_small", embedding_dim=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run trained with contrast."""
    return write_run(tmp_path_factory.mktemp("runs"), model=SMALL, steps=(4,))[0]


class Operators(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operators(model: nn.Module) -> list[str]:
    with torch.inference_mode(), Operators() as noted:
        model(images())
    return noted.names


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(images()).logits


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_an_exported_network_is_the_plain_one(format: Any, run: str, tmp_path: Path) -> None:
    trained = load_model(run)
    name = tmp_path / f"network.{'pt' if format == 'torch' else format}"
    assert export_model(trained, format, out=str(name)) == str(name)
    model = load_model(name)
    plain = build_model(SMALL, num_classes=11, embedding=False).eval()
    shapes = {key: tensor.shape for key, tensor in plain.state_dict().items()}
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == shapes
    assert operators(model) == operators(plain)
    assert torch.equal(logits(model), logits(trained))
    assert model.metadata == trained.metadata
    assert not model.training


def test_an_exported_file_describes_its_network(run: str, tmp_path: Path) -> None:
    file = export_model(load_model(run), "safetensors", out=str(tmp_path / "a.safetensors"))
    metadata = load_model(file).metadata
    assert metadata.classes[8] == "car"
    assert metadata.palette[8] == (64, 0, 128)
    assert metadata.mean == (0.485, 0.456, 0.406)
    assert (metadata.layout, metadata.source.run, metadata.source.step) == ("camvid", run, 4)


@pytest.mark.parametrize("format", ["safetensors", "torch", "onnx"])
def test_only_a_file_of_the_same_checkpoint_is_replaced(format: Any, tmp_path: Path) -> None:
    run, _ = write_run(tmp_path, model=Model(backbone="test_resnet", embedding_dim=8), steps=(2, 4))
    file = tmp_path / f"network.{'pt' if format == 'torch' else format}"
    for _ in range(2):
        export_model(load_model(run), format, out=str(file))
    written = file.read_bytes()
    with pytest.raises(ValueError, match=rf"network\.\w+: holds step 4 of {run} .* this is step 2 of {run}"):
        export_model(load_model(run, step=2), format, out=str(file))
    assert file.read_bytes() == written
    file.write_text("of somebody else")
    with pytest.raises(ValueError, match=r"another file lies there; choose another --out, or delete"):
        export_model(load_model(run), format, out=str(file))
    assert file.read_text() == "of somebody else"


def test_a_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path, model=Model(backbone="test_resnet", embedding_dim=8), steps=(4,))
    weights = Path(run) / checkpoint.folder_of(4) / "model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(ValueError, match="these are the weights of a run's checkpoint; choose another --out"):
        export_model(load_model(run), "safetensors", out=str(weights))
    assert weights.read_bytes() == before


def test_files_go_to_an_object_store_and_come_from_it(run: str, object_store: ObjectStore) -> None:
    trained, uri = load_model(run), object_store.uri("exports/a.safetensors")
    assert export_model(trained, "safetensors", out=uri) == uri
    assert torch.equal(logits(load_model(uri)), logits(trained))


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "a.pt"
    buffer = io.BytesIO()
    torch.save({"weights": Trap(canary), "metadata": {}}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(Trap(canary), protocol=2)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt: damaged, or no file of `pixelcontrast export`"):
            load_model(file)
    assert not canary.exists()


def test_what_is_no_exported_file_is_named(run: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b\.safetensors: there is no such file"):
        load_model(tmp_path / "b.safetensors")
    model = load_model(run)
    file = Path(export_model(model, "safetensors", out=str(tmp_path / "a.safetensors")))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged"):
        load_model(file)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    (tmp_path / "c.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"c\.pt: damaged, or no file of `pixelcontrast export`"):
        load_model(tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"--argmax: torch files hold no graph"):
        export_model(model, "torch", argmax=True)
    with pytest.raises(
        ValueError, match=r"--out a\.pt: allowed for --format safetensors is a name that ends with"
    ):
        export_model(model, "safetensors", out="a.pt")
    with pytest.raises(ValueError, match=r"a\.onnx: an ONNX file is run by onnxruntime"):
        load_model("a.onnx")


def session(content: bytes) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(content)


@pytest.mark.parametrize(
    ("backbone", "decoder", "align_corners"),
    [
        ("hrnet_w18_small", "hrnet", "no"),
        ("hrnet_w18_small", "ocr", None),
        pytest.param("efficientnet_b0", "deeplabv3", None, marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_network_s_logits_at_any_batch_and_size(
    backbone: str, decoder: Any, align_corners: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    settings = Model(backbone=backbone, decoder=decoder, align_corners=align_corners, embedding_dim=8)
    folder, _ = write_run(tmp_path, model=settings, steps=(4,))
    model = load_model(folder)
    file = export_model(model, "onnx", out=str(tmp_path / "a.onnx"))
    assert not model.training
    graph = session(Path(file).read_bytes())
    for batch, height, width in ((1, 64, 96), (3, 33, 75), (2, 97, 40)):
        images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
        (found,) = graph.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = model(images).logits.numpy()
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("backbone", ["mobilevit_xxs", "mobilevitv2_050"])
def test_onnx_of_a_network_whose_graph_fits_one_size_is_refused(backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    folder, _ = write_run(tmp_path, model=Model(backbone=backbone, embedding_dim=8), steps=(4,))
    model, file = load_model(folder), tmp_path / "a.onnx"
    with pytest.raises(
        ValueError,
        match=rf"--format onnx: a graph of {backbone} would fit images of one size only, .* allowed",
    ):
        export_model(model, "onnx", out=str(file))
    assert not file.exists()


def test_onnx_with_argmax_gives_classes_and_carries_the_metadata(run: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = load_model(run)
    file = export_model(model, "onnx", argmax=True, out=str(tmp_path / "a.onnx"))
    graph = session(Path(file).read_bytes())
    (found,) = graph.run(["classes"], {"images": images().numpy()})
    assert found.dtype == np.uint8
    expected = logits(model)
    assert found.shape == (2, 40, 64)
    sure = expected.topk(2, dim=1).values.diff(dim=1)[:, 0].abs() > 1e-3
    assert sure.float().mean() > 0.9
    assert (found == expected.argmax(1).numpy())[sure.numpy()].all()
    described = graph.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(described["classes"])) == model.classes
    assert json.loads(described["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(described["source"])["run"] == run


def test_a_network_of_your_own_images_keeps_its_names(tmp_path: Path) -> None:
    data = Data(layout="folder", root="/nowhere")
    folder, _ = write_run(tmp_path, data=data, model=SMALL, num_classes=2, steps=(4,))
    row = metrics_row(4, "eval") | {"iou": {"cat": 0.5, "dog": None}}
    (Path(folder) / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    file = export_model(load_model(folder), "torch", out=str(tmp_path / "pets.pt"))
    model = load_model(file)
    assert isinstance(model, TrainedModel)
    assert model.classes == ("cat", "dog")
