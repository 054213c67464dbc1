"""``pixelcontrast predict``: pictures of any size in, overlays, masks and confidences out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.io import decode_png

from object_store import ObjectStore
from pixelcontrast import Model, load_model
from pixelcontrast.cli.predict import predict as command
from pixelcontrast.inference import TrainedModel, export_model
from pixelcontrast.inference.classify import classify
from pixelcontrast.inference.predict import KINDS, Kind, find_pictures, predict_pictures
from pixelcontrast.models import SegmentationModel
from pixelcontrast.models.decoders import Decoded
from pixelcontrast.storage import Storage
from small_sets import write_image
from trained_runs import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    small = Model(backbone="hrnet_w18_small", embedding_dim=8)
    return write_run(tmp_path_factory.mktemp("runs"), model=small, steps=(4,))[0]


@pytest.fixture(scope="module")
def model(run: str) -> TrainedModel:
    return load_model(run)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_of_all_sizes_and_kinds_with_bad_files(
    run: str, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "a.jpg", size=(37, 51))
    write_image(images / "deep" / "b.png", size=(64, 96), seed=1)
    Image.fromarray(read(images / "deep" / "b.png")[..., 0]).save(images / "grey.PNG")
    (images / "broken.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "notes.txt").write_text("no image")
    with pytest.raises(SystemExit) as ended:
        command(run, [str(images), "/nowhere/c.png"], out=str(out), device="cpu")
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert f"3 of 5 images: {out}" in told.out
    assert f"{images}/broken.jpg: cannot be read as PNG or JPEG" in told.err
    assert told.err.count("; copy or download") == 1
    assert "/nowhere/c.png: cannot be read" in told.err
    written = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    names = {"a.png", "deep/b.png", "grey.png"}
    kinds = ("overlays", "masks", "confidence")
    assert written == {"legend.png"} | {f"{kind}/{name}" for kind in kinds for name in names}
    assert read(out / "masks/a.png").shape == (37, 51)
    np.testing.assert_array_equal(read(out / "masks/deep/b.png"), model.predict(read(images / "deep/b.png")))


def test_what_the_files_show(model: TrainedModel, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 48))
    pictures = find_pictures([str(tmp_path / "a.png")], out=str(tmp_path / "out"))
    assert predict_pictures(model, pictures, out=str(tmp_path / "out")) == []
    pixels = read(tmp_path / "a.png")
    found = classify(model, torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    mask = Image.open(tmp_path / "out/masks/a.png")
    np.testing.assert_array_equal(np.asarray(mask), found.classes)
    palette = np.array(model.metadata.palette, np.uint8)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), palette[found.classes])
    confidence = read(tmp_path / "out/confidence/a.png") / 255
    np.testing.assert_allclose(confidence, found.confidence, atol=0.003)
    assert found.confidence.min() >= 1 / 11 - 1e-6
    drawn = read(tmp_path / "out/overlays/a.png").astype(int)
    assert drawn.shape == (40, 48, 3)
    assert (np.abs(drawn - 0.68 * palette[found.classes]) <= 0.32 * 255 + 1).all()


def test_only_the_pictures_that_are_wanted_are_written(run: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 48))
    wanted: dict[str, tuple[Kind, ...]] = {"all": KINDS, "some": ("masks",)}
    for out, kinds in wanted.items():
        with pytest.raises(SystemExit) as ended:
            command(run, [str(tmp_path / "a.png")], out=str(tmp_path / out), device="cpu", write=kinds)
        assert ended.value.code == 0
    written = {str(path.relative_to(tmp_path / "some")) for path in (tmp_path / "some").rglob("*.*")}
    assert written == {"legend.png", "predictions.json", "masks/a.png"}
    assert read(tmp_path / "some/masks/a.png").tolist() == read(tmp_path / "all/masks/a.png").tolist()


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_masks_of_few_classes_are_8_bit_pngs_which_torchvision_reads(
    model: TrainedModel, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.png", size=(40, 48))
    predict_pictures(model, find_pictures([str(tmp_path / "a.png")], out="out"), out=str(tmp_path))
    content = (tmp_path / "masks" / "a.png").read_bytes()
    bits, color_type = content[24:26]
    assert (len(model.classes), bits, color_type) == (11, 8, 3)
    ids = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    np.testing.assert_array_equal(ids[0], model.predict(read(tmp_path / "a.png")))


def test_pictures_come_from_an_object_store_and_go_there(
    model: TrainedModel, tmp_path: Path, object_store: ObjectStore
) -> None:
    write_image(tmp_path / "in" / "a.jpg", size=(33, 44))
    Storage(object_store.uri("")).upload(tmp_path / "in", "photos/in")
    out = object_store.uri("photos/out")
    pictures = find_pictures([object_store.uri("photos/in")], out=out)
    assert [picture.name for picture in pictures] == ["a"]
    assert predict_pictures(model, pictures, out=out) == []
    assert set(Storage(out).sizes()) == {
        "legend.png",
        "predictions.json",
        "overlays/a.png",
        "masks/a.png",
        "confidence/a.png",
    }


def test_predictions_of_others_are_not_overwritten(
    run: str, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    files = [tmp_path / name for name in ("a.png", "b.png", "other/a.png")]
    for file in files:
        write_image(file)
    first, second, other = (find_pictures([str(file)], out=out) for file in files)
    assert predict_pictures(model, first, out=out) == []
    assert predict_pictures(model, [*first, *second], out=out) == []  # again, and one more
    with pytest.raises(ValueError, match=r"images\.a was '.*/a\.png' and is now '.*/other/a\.png'\. Choose"):
        predict_pictures(model, other, out=out)
    before = {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}
    another = write_run(tmp_path, model=model.metadata.model, name="b", steps=(4,))[0]
    with pytest.raises(SystemExit) as ended:
        command(another, [str(tmp_path / "b.png")], out=out, device="cpu")
    assert ended.value.code == 2
    assert f"--out {out}: holds other results: network.run was '{run}' and is" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()} == before
    (tmp_path / "out" / "predictions.json").unlink()
    with pytest.raises(ValueError, match=r"unknown network, as predictions\.json is missing; choose another"):
        predict_pictures(model, first, out=out)


def test_the_name_of_a_file_that_was_not_there_is_free(model: TrainedModel, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.png")
    out = str(tmp_path / "out")
    for folder, failed in (("phtos", 1), ("photos", 0)):
        pictures = find_pictures([str(tmp_path / folder / "a.png")], out=out)
        assert len(predict_pictures(model, pictures, out=out)) == failed
    assert str(tmp_path / "photos" / "a.png") in (tmp_path / "out" / "predictions.json").read_text()


@pytest.mark.parametrize(("content", "says"), [("{}", "lacks images"), ("[]", "is no JSON object")])
def test_a_record_that_is_incomplete_is_named(
    model: TrainedModel, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "predictions.json").write_text(content)
    with pytest.raises(ValueError, match=rf"predictions\.json {says}\. Choose another --out, or delete"):
        predict_pictures(model, [], out=str(tmp_path))


def test_earlier_predictions_are_no_images(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "out" / "overlays" / "a.png")
    pictures = find_pictures([str(tmp_path)], out=str(tmp_path / "out"))
    assert [picture.name for picture in pictures] == ["a"]
    (tmp_path / "out" / "predictions.json").write_text("{}")
    pictures = find_pictures([str(tmp_path)], out=str(tmp_path / "other"))
    assert [picture.name for picture in pictures] == ["a"]


def test_predictions_in_the_folder_of_the_images_itself_are_no_images(
    model: TrainedModel, tmp_path: Path
) -> None:
    write_image(tmp_path / "photos" / "a.png")
    write_image(tmp_path / "out" / "b.png")
    out = str(tmp_path / "out")
    assert not predict_pictures(model, find_pictures([str(tmp_path / "photos")], out=out), out=out)
    pictures = find_pictures([out], out=str(tmp_path / "out" / "more"))
    assert [picture.name for picture in pictures] == ["b"]


def test_no_kind_of_picture_is_refused(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(run, [str(tmp_path)], out=str(tmp_path / "out"), write=())
    assert "--write: allowed are one or more of overlays, masks and confidence" in capsys.readouterr().err


@pytest.mark.parametrize("out", [".", "photos"])
def test_predictions_do_not_go_where_the_images_lie(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"--out .*: the images lie there, in .*photos; choose another --out"
    ):
        find_pictures(["photos"], out=out)
    assert len(find_pictures(["photos"], out="photos/predictions")) == 1


def test_pictures_of_other_formats_are_listed_and_not_dropped(model: TrainedModel, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.png")
    for name in ("a.tif", "b.webp"):
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / name)
    out = str(tmp_path / "out")
    failures = predict_pictures(model, find_pictures([str(tmp_path / "photos")], out=out), out=out)
    assert [Path(line.partition(":")[0]).name for line in failures] == ["a.tif", "b.webp"]
    assert all("PNG" in line for line in failures)
    assert (tmp_path / "out" / "masks" / "a.png").exists()


def test_of_a_data_set_the_images_alone_are_predicted(tmp_path: Path) -> None:
    for name in (
        "images/train/a.jpg",
        "images/val/b.jpg",
        "masks/train/a.png",
        "masks/val/b.png",
        "test.jpg",
    ):
        write_image(tmp_path / name)
    text = 'images = "images/{split}"\nmasks = "masks/{split}"\n[[classes]]\nname = "road"\n'
    (tmp_path / "dataset.toml").write_text(text)
    pictures = find_pictures([str(tmp_path)], out="out")
    assert [picture.name for picture in pictures] == ["images/train/a", "images/val/b"]
    write_image(tmp_path / "images/test/c.png")
    assert len(find_pictures([str(tmp_path)], out="out")) == 3


def test_no_images_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images in this folder; allowed are files that end with \.jpg"):
        find_pictures([str(tmp_path)], out="out")
    with pytest.raises(ValueError, match="no images: give files or folders"):
        find_pictures([], out="out")
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "b" / "1.jpg")
    both = [str(tmp_path / "a" / "1.png"), str(tmp_path / "b" / "1.jpg")]
    with pytest.raises(ValueError, match=r"b/1\.jpg: its predictions would have the same name as those of"):
        find_pictures(both, out="out")
    assert len(find_pictures([both[0], str(tmp_path / "a")], out="out")) == 1  # one image, named twice


def test_two_endings_of_one_name_in_a_folder_are_refused_with_what_helps(tmp_path: Path) -> None:
    write_image(tmp_path / "deep" / "x.jpg")
    write_image(tmp_path / "deep" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: .* those of .*x\.jpg; give only one .* or move one away$"):
        find_pictures([str(tmp_path)], out="out")
    assert len(find_pictures([str(tmp_path / "deep" / "x.jpg")], out="out")) == 1


class Pixels(nn.Module):
    """A decoder whose logits at a pixel depend on that pixel alone."""

    feature_channels = 3

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, num_classes, 1)
        self.seen: list[int] = []
        """Pixels of each image."""
        nn.init.normal_(self.classifier.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor, _valid: object = None) -> Decoded:
        self.seen.append(image.shape[-2] * image.shape[-1])
        return Decoded(self.classifier(image), image, None)


def network_of(decoder: Pixels) -> SegmentationModel:
    unit = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    return SegmentationModel(nn.Identity(), decoder, None, stride=1, multiple=1, **unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(300, 210), (64, 1000), (1, 2000), (130, 130)])
def test_a_large_picture_is_tiled_without_a_seam(size: tuple[int, int]) -> None:
    model = network_of(Pixels())
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    whole, tiled = classify(model, image), classify(model, image, max_logits=7 * 64**2)
    assert torch.equal(tiled.classes, whole.classes)
    torch.testing.assert_close(tiled.confidence, whole.confidence)


def test_two_classes_do_not_make_tiles_larger_than_19_do() -> None:
    decoder = Pixels(num_classes=2)
    classify(network_of(decoder), torch.zeros(3, 2000, 3600, dtype=torch.uint8))
    assert decoder.seen == [2000 * 2657] * 2  # 2657² pixels of 19 logits are 2²⁷


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg")
    write_image(tmp_path / "disk" / "b.jpg")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "disk")
    found = find_pictures([str(tmp_path / "photos")], out=str(tmp_path / "out"))
    assert [picture.name for picture in found] == ["a", "more/b"]


def test_a_place_that_no_one_knows_is_named_by_its_option(model: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^IMAGES_OR_FOLDER foo://x: pyarrow cannot open it"):
        find_pictures(["foo://x"], out="p")
    with pytest.raises(ValueError, match=r"^--out foo://x: pyarrow cannot open it"):
        find_pictures([str(tmp_path)], out="foo://x")
    with pytest.raises(ValueError, match=r"^--out foo://x\.pt: pyarrow cannot open it"):
        export_model(model, "torch", out="foo://x.pt")
