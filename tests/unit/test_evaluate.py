"""``pixelcontrast evaluate``: scores equal to others' on the same files, for runs and for exported files."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from object_store import ObjectStore
from pixelcontrast import Data, Model, load_model
from pixelcontrast.cli.evaluate import DataOptions, ProtocolOptions
from pixelcontrast.cli.evaluate import evaluate as command
from pixelcontrast.cli.inspect import inspect
from pixelcontrast.datasets.official import result_ids, result_name
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset
from pixelcontrast.evaluation import Protocol, result_file
from pixelcontrast.inference import TrainedModel, export_model
from pixelcontrast.inference.evaluate import Evaluation, Job, evaluate, held_out, results_folder
from pixelcontrast.runs import checkpoint
from pixelcontrast.storage import Storage
from small_sets import ade20k, coco_10k, coco_164k, reference_pngs, some_ids
from trained_runs import write_run

SMALL = Model(backbone="hrnet_w18_small", embedding_dim=8)


@pytest.fixture(scope="module")
def streets(scenes: Path) -> Data:
    return Data(layout="cityscapes", root=str(scenes))


@pytest.fixture(scope="module")
def run(streets: Data, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on the scenes, whose best checkpoint is that of step 4."""
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder, data=streets, model=SMALL, num_classes=19, steps=(4,))[0]


@pytest.fixture(scope="module")
def found(run: str, streets: Data, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Its evaluation, with result files."""
    results = str(tmp_path_factory.mktemp("results"))
    return evaluate(Job(location=run, data=streets, results=results))


def read(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_scores_equal_cityscapesscripts_on_the_written_files(
    found: Evaluation, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    truths = sorted(map(str, (scenes / "gtFine" / "val").glob("*/*_gtFine_labelIds.png")))
    assert len(truths) == found.num_images == 5
    official.args.predictionPath, official.args.predictionWalk = found.job.results, None
    official.args.evalInstLevelScore, official.args.quiet, official.args.JSONOutput = False, True, False
    guesses = [official.getPrediction(official.args, truth) for truth in truths]
    assert len(set(guesses)) == 5
    result = official.evaluateImgLists(guesses, truths, official.args)
    capsys.readouterr()
    scores = found.summary()
    ours = {name: row["iou"] for name, row in scores["classes"].items()}
    theirs = {name: None if np.isnan(value) else value for name, value in result["classScores"].items()}
    assert ours == {name: pytest.approx(theirs[name], abs=1e-12) for name in ours}
    assert scores["miou"] == pytest.approx(result["averageScoreClasses"], abs=1e-12)


def test_scores_equal_torchmetrics_on_the_written_files(found: Evaluation, streets: Data) -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    dataset, metric = build_dataset(streets, "val"), MulticlassJaccardIndex(19, ignore_index=255)
    assert found.job.results is not None
    for index in range(len(dataset)):
        file = Path(found.job.results) / Path(dataset.name(index)).name
        metric.update(dataset.labels.encode(read(file), file=file).long(), dataset.read(index)[1].long())
    assert found.summary()["miou"] == pytest.approx(metric.compute().item(), abs=1e-6)


def test_two_processes_and_an_exported_file_count_the_same(
    found: Evaluation, run: str, streets: Data, tmp_path: Path
) -> None:
    file = export_model(load_model(run), "safetensors", out=str(tmp_path / "a.safetensors"))
    progress: list[tuple[int, int]] = []
    job = Job(location=file, data=streets, threads=1)
    again = evaluate(job, processes=2, on_progress=lambda *done: progress.append(done))
    assert torch.equal(again.confusion.matrix, found.confusion.matrix)
    assert torch.equal(again.boundary.counts, found.boundary.counts)
    assert progress == [(done, 5) for done in range(1, 6)]


def test_a_pack_gives_the_scores_and_result_files_of_its_folder(
    found: Evaluation, run: str, streets: Data, tmp_path: Path
) -> None:
    pack(streets, str(tmp_path / "packed"))
    packed = replace(streets, root=str(tmp_path / "packed"))
    again = evaluate(Job(location=run, data=packed, results=str(tmp_path / "results")))
    assert torch.equal(again.confusion.matrix, found.confusion.matrix)
    assert torch.equal(again.boundary.counts, found.boundary.counts)
    files, results = sorted((tmp_path / "results").iterdir()), Path(str(found.job.results))
    assert [file.name for file in files] == sorted(file.name for file in results.iterdir())
    assert all(file.read_bytes() == (results / file.name).read_bytes() for file in files)


def test_a_protocol_is_followed_and_named(found: Evaluation, run: str, streets: Data) -> None:
    protocol = Protocol(window=(32, 32), flip=True)
    other = evaluate(Job(location=run, data=streets, protocol=protocol, split="train"))
    assert other.confusion.matrix.sum() != found.confusion.matrix.sum()
    summary = other.summary()
    assert summary["protocol"]["text"] == str(protocol)
    assert summary["data"]["split"] == "train"
    assert summary["network"] == {"run": run, "step": 4, "commit": "0123abc"}


def test_files_of_an_evaluation(found: Evaluation, object_store: ObjectStore) -> None:
    found.write(object_store.uri("evaluation"))
    written = Storage(object_store.uri("evaluation"))
    summary = json.loads(written.read("evaluation.json"))
    assert summary["conventions"]["miou"] == "mean over the classes that occur or are predicted"
    assert summary["miou"] == found.confusion.scores().miou
    table = pq.read_table(io.BytesIO(written.read("confusion.parquet"))).to_pylist()
    assert len(table) == 19 * 19
    assert table[1]["true"] == "road"
    assert table[1]["predicted"] == "sidewalk"
    assert [row["pixels"] for row in table] == found.confusion.matrix.flatten().tolist()
    assert Image.open(io.BytesIO(written.read("confusion.png"))).width > 19 * 24


def test_result_files_go_to_an_object_store(
    found: Evaluation, run: str, streets: Data, object_store: ObjectStore
) -> None:
    results = results_folder(object_store.uri("official"))
    evaluate(Job(location=run, data=streets, results=results))
    assert found.job.results is not None
    ours = {path.name: path.read_bytes() for path in Path(found.job.results).iterdir()}
    written = Storage(object_store.uri("official/results"))
    assert {name: written.read(name) for name in written.names()} == ours


def test_other_classes_are_refused(run: str, tmp_path: Path) -> None:
    reference_pngs(tmp_path, some_ids(60))
    data = Data(layout="pascal-context-60", root=str(tmp_path), class_order="voc")
    with pytest.raises(ValueError, match=r"pascal-context-60 in .*: it has 60 classes, and the network 19"):
        evaluate(Job(location=run, data=data))


@pytest.mark.parametrize(("layout", "num_classes"), [("pascal-context-59", 59), ("pascal-context-60", 60)])
def test_pascal_context_has_59_classes_without_background_and_60_with_it(
    layout: Any, num_classes: int, tmp_path: Path
) -> None:
    reference_pngs(tmp_path / "data", some_ids(60))
    data = Data(layout=layout, root=str(tmp_path / "data"), class_order="alphabetical")
    folder, _ = write_run(tmp_path, data=data, model=SMALL, num_classes=num_classes, steps=(4,))
    results = str(tmp_path / "results")
    found = evaluate(Job(location=folder, data=data, results=results))
    background = int((some_ids(60) == 0).sum())
    assert found.confusion.matrix.sum() == some_ids(60).size - (background if num_classes == 59 else 0)
    written = read(next(Path(results).iterdir()))
    assert written.shape == some_ids(60).shape
    assert set(np.unique(written)) <= set(range(60 - num_classes, 60))


def some_classes(dataset: SegmentationSet) -> torch.Tensor:
    return torch.arange(24 * 32).reshape(24, 32) % dataset.labels.num_classes


@pytest.mark.parametrize("layout", ["ade20k", "coco-stuff-10k", "coco-stuff-164k", "pascal-context-60"])
def test_a_result_file_read_as_a_label_is_the_prediction(layout: Any, tmp_path: Path) -> None:
    {"ade20k": ade20k, "coco-stuff-10k": coco_10k, "coco-stuff-164k": coco_164k}.get(
        layout, lambda root: reference_pngs(root, some_ids(60))
    )(tmp_path)
    order = "voc" if layout.startswith("pascal") else None
    dataset = build_dataset(Data(layout=layout, root=str(tmp_path), class_order=order), "val")
    classes = some_classes(dataset)
    content = result_file(classes.numpy(), result_ids(layout, dataset))
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == "L"
    encoded = dataset.labels.encode(np.asarray(picture), file=tmp_path)
    assert torch.equal(encoded.long(), classes)


def test_result_files_are_named_as_the_images() -> None:
    assert result_name("ade20k", "images/validation/ADE_val_00000001.jpg") == "ADE_val_00000001.png"
    name = "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
    assert result_name("cityscapes", name) == "ulm_000000_000019_leftImg8bit.png"
    assert result_name("folder", "images/val/a/1.jpg") == "images/val/a/1.png"


def test_the_command_takes_the_run_s_own_data_and_shows_every_class(
    found: Evaluation, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(run, out=str(tmp_path / "out"), device="cpu")
    shown = capsys.readouterr().out
    assert "traffic light" in shown
    assert f"{100 * found.summary()['miou']:.1f}" in shown
    assert "on 5 images of val" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.json",
        "confusion.png",
        "confusion.parquet",
    }
    with pytest.raises(SystemExit) as ended:
        command("/nowhere", device="cpu")
    assert ended.value.code == 2
    assert "/nowhere: there is no run here" in capsys.readouterr().err


def test_a_run_that_trains_on_is_scored_at_the_step_that_is_recorded(
    streets: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest checkpoint is looked for once, not again by everything that loads the network."""
    folder = Path(write_run(tmp_path, data=streets, model=SMALL, num_classes=19, steps=(2, 4))[0])
    (folder / "result.json").unlink()
    newer = (folder / checkpoint.folder_of(4)).rename(tmp_path / "newer")
    loads: list[int] = []

    def load_and_train_on(location: str, step: int | None = None) -> TrainedModel:
        loaded = load_model(location, step)
        loads.append(loaded.metadata.source.step)
        if newer.exists():
            newer.rename(folder / checkpoint.folder_of(4))
        return loaded

    for module in ("pixelcontrast.inference", "pixelcontrast.inference.evaluate"):
        monkeypatch.setattr(f"{module}.load_model", load_and_train_on)
    command(str(folder), out=str(tmp_path / "out"), device="cpu")
    assert loads == [2, 2]
    newest = evaluate(Job(location=str(folder), data=streets))
    assert (newest.job.step, newest.metadata.source.step) == (4, 4)


def test_another_evaluation_is_not_overwritten(
    run: str, streets: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command(run, out=str(out), device="cpu", official=True)
    command(run, out=str(out), device="cpu", official=True)  # the same again
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    moved = tmp_path / "moved"
    moved.symlink_to(streets.root)
    other = write_run(tmp_path, data=streets, model=SMALL, num_classes=19, steps=(4,), name="b")[0]
    capsys.readouterr()
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        (other, {}, f"network.run was '{run}' and is now '{other}'"),
        (run, {"protocol": ProtocolOptions(flip=True)}, "protocol.flip was False and is now True. Choose"),
        (run, {"data": DataOptions(root=str(moved))}, f"data.root was '{streets.root}' and is now '{moved}'"),
        (run, {"boundary_ratio": 0.005}, "boundary_ratio was 0.02 and is now 0.005"),
        (run, {}, f"{out}/results holds result files that this evaluation does not write, such as eschbach"),
    )
    for network, changes, says in cases:
        with pytest.raises(SystemExit) as ended:
            command(network, out=str(out), device="cpu", **changes)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"--out {out}: " in said
        assert says in said
        assert "nother --out, or delete" in said
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_evaluated(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit) as ended:
        command(run, out=str(tmp_path / "out"), device="cpu")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"--out: {tmp_path}/out cannot be written: ")


@pytest.mark.parametrize(("verb", "option"), [(command, "--data.root"), (inspect, "--root")])
def test_data_that_are_elsewhere_now_are_asked_for_by_the_command_s_option(
    verb: Callable[..., None], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Data(layout="cityscapes", root=str(tmp_path / "gone"))
    run, _ = write_run(tmp_path, data=data, model=SMALL, num_classes=19, steps=(4,))
    with pytest.raises(SystemExit):
        verb(run, device="cpu")
    assert f"they are not on this machine; say where they are with {option}" in capsys.readouterr().err


def test_of_two_evaluations_at_once_the_other_is_refused(
    run: str, streets: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, metadata = str(tmp_path / "out"), load_model(run).metadata
    job = Job(location=run, data=streets)
    with held_out(out, job, metadata):
        with pytest.raises(SystemExit):
            command(run, out=out, device="cpu", protocol=ProtocolOptions(flip=True))
        assert "protocol.flip was False and is now True" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), held_out(str(tmp_path / "b"), job, metadata):
        raise KeyboardInterrupt
    assert list((tmp_path / "b").iterdir()) == [], "nothing was evaluated, and the place is free"
    command(run, out=out, device="cpu")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"] == 5


def test_a_file_of_a_run_that_is_out_of_reach_is_evaluated(
    run: str, found: Evaluation, tmp_path: Path
) -> None:
    source = replace(found.metadata.source, run="s3://no-such-bucket/runs/own?region=eu-north-1")
    assert source.name == "own"
    replace(found, metadata=replace(found.metadata, source=source)).write(str(tmp_path / "out"))
    assert (tmp_path / "out" / "evaluation.json").exists()
    assert replace(source, run=run).name == Path(run).name
