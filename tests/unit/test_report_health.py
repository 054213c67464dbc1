"""The picture of the embedding's health in a run's report, and its figures in TensorBoard."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
)

import browser
from health_rows import Row, evaluation, row
from pixelcontrast import Data, Experiment, Optim, Run, config, training
from pixelcontrast.reports import write_report
from pixelcontrast.reports.health import TITLE
from pixelcontrast.runs.run_folder import open_storage, read_rows
from pixelcontrast.training.run_log import RunLog
from searches import experiment

ATTEMPT = {"attempt": 1, "started": "2026-11-28T10:00:00+00:00", "world_size": 1, "from_step": 0}
LINE = "the embedding has collapsed: for 3 reports <all> embeddings are equal."


def report_of(folder: Path, rows: list[Row], **overrides: Any) -> Path:
    """The report of a run that has reported these rows."""
    settings = Experiment(
        data=Data(layout="camvid", root="unused"),
        optim=Optim(steps=1000),
        run=Run(name="run", storage=str(folder)),
    )
    settings = config.replace(settings, {f"contrast.{key}": value for key, value in overrides.items()})
    log = RunLog(open_storage(settings), settings, step=0, attempt=ATTEMPT)
    for each in rows:
        log.add(each)
    log.close()
    return Path(write_report(str(folder / "run")))


def healthy(**values: Any) -> list[Row]:
    return [*(row(step, **values) for step in range(20, 1001, 20)), evaluation(1000)]


def plots(page: str) -> int:
    return page.count('id="plot-embedding-')


def test_a_run_with_contrast_has_the_picture(tmp_path: Path) -> None:
    page = report_of(tmp_path, healthy()).read_text()
    assert f"<h2>{TITLE}</h2>" in page
    assert plots(page) == 6
    assert "1: collapsed" in page
    assert "What healthy looks like" in page
    assert 'class="warning"' not in page
    assert '<td class=number data-sort="0.3">+0.30</td>' in page, "the gap of a class beside its IoU"


def test_a_run_without_contrast_has_no_picture(tmp_path: Path) -> None:
    rows = [
        {key: value for key, value in each.items() if key in evaluation(0) or key in ("loss", "ce")}
        | {"images_per_second": 10.0}
        for each in healthy()
    ]
    page = report_of(tmp_path, rows, weight=0.0).read_text()
    assert TITLE not in page
    assert "IoU and gap" not in page


def test_a_run_without_a_memory_has_no_plots_of_one(tmp_path: Path) -> None:
    none = {"memory_positive_similarity": None, "memory_negative_similarity": None, "memory_age": None}
    page = report_of(tmp_path, healthy(**none), memory="none").read_text()
    assert plots(page) == 4
    assert "Similarity with the memory" not in page


def test_missing_values_are_left_out_of_the_picture(tmp_path: Path) -> None:
    some = [row(20), row(40, gap=None, norm=None), row(60, gap=-0.2)]
    for key in ("gradient_ratio", "gradient_cosine"):
        del some[0][key]
    assert plots(report_of(tmp_path / "some", some).read_text()) == 6
    nothing = [row(20, gap=None, norm=None)]
    assert TITLE not in report_of(tmp_path / "nothing", nothing).read_text()


def test_warnings_stand_above_the_picture(tmp_path: Path) -> None:
    rows = healthy()
    rows[7]["warnings"] = {"collapsed": LINE}
    page = report_of(tmp_path, rows).read_text()
    shown = page.index(f'<p class="warning">Step 160: {LINE.replace("<all>", "&lt;all&gt;")}</p>')
    assert page.index(TITLE) < shown < page.index('id="plot-embedding-')


def test_tensorboard_has_the_figures_under_one_prefix(tmp_path: Path) -> None:
    rows = healthy()
    rows[7]["warnings"] = {"collapsed": LINE}
    report = report_of(tmp_path, rows)
    events = EventAccumulator(str(report.parent / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"embedding/gap", "embedding/class_gap/road", "embedding/memory_age"} <= tags
    assert {"train/loss", "train/contrast", "eval/miou"} <= tags
    assert not any("warnings" in tag for tag in tags)
    assert not any(tag.endswith(("/attempt", "/step", "/steps")) for tag in tags), "they are no figures"
    assert [event.value for event in events.Scalars("embedding/gap")][:1] == [pytest.approx(0.3)]
    (text,) = events.Tensors("embedding/collapsed/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (160, LINE)
    read = read_rows(open_storage(config.from_json((report.parent / "experiment.json").read_text())))
    assert read == json.loads(json.dumps(rows)), "metrics.jsonl has the rows as they were"


def test_tensorboard_has_the_pictures_and_the_settings(scenes: Path, tmp_path: Path) -> None:
    settings = config.replace(experiment(scenes, tmp_path), {"optim.steps": 2})
    training.fit(settings, device=torch.device("cpu"), report=lambda _: None)
    folder = tmp_path / "small"
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    (shown,) = events.Images("overlays")
    picture = Image.open(folder / "overlays/step-00000002.png")
    assert (shown.step, shown.width, shown.height) == (2, picture.width, picture.height)
    assert {"eval/miou", "iou/road"} <= set(events.Tags()["scalars"])
    plugin = events.PluginTagToContent("hparams")
    found = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info.hparams
    assert found["optim.lr"].number_value == settings.optim.lr
    assert found["contrast.memory"].string_value == "both"
    assert "run.workers" not in found


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (390, 1)])
def test_every_plot_fills_its_place_in_the_picture(tmp_path: Path, width: int, columns: int) -> None:
    report = report_of(tmp_path, healthy())
    with browser.page(width=width) as page:
        page.goto(report.as_uri())
        page.wait_for_function("document.querySelectorAll('.plots .main-svg').length >= 6")
        boxes = page.locator(".plots > div").evaluate_all(
            "cells => cells.map(cell => [cell.getBoundingClientRect().left, cell.clientWidth,"
            " cell.querySelector('.main-svg').getBoundingClientRect().width])"
        )
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert len({left for left, _, _ in boxes}) == columns
    for _, place, drawn in boxes:
        assert drawn == pytest.approx(place, abs=2)
