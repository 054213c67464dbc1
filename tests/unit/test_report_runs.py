"""Reports of runs side by side, whatever they belong to."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from pixelcontrast import Search, config, training
from pixelcontrast.cli.commands import report
from pixelcontrast.reports import pictures_folder, write_comparison
from pixelcontrast.runs.record import read_run
from pixelcontrast.storage import Storage
from pixelcontrast.words import percent, points
from searches import ARMS, experiment, run_search


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of its own, and the two runs of a study."""
    runs = tmp_path_factory.mktemp("runs")
    settings = config.replace(experiment(scenes, runs), {"optim.steps": 2})
    arms = {name: ARMS[name] for name in ("ce", "cool")}
    run_search(settings, Search(arms=arms, seeds=(0,), name="arms"), arms=True)
    alone = config.replace(settings, {"contrast.weight": 0.0, "optim.lr": 0.05, "run.name": "alone"})
    training.fit(alone, device=torch.device("cpu"), report=lambda _: None)
    return runs


def test_two_runs_are_compared_by_score_class_and_setting(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(str(runs / "alone"), (str(runs / "arms" / "cool-s0"),))
    written = Path(capsys.readouterr().out.strip())
    assert written.parent == runs
    assert re.fullmatch(r"report-alone-cool-s0-[0-9a-f]{6}\.html", written.name)
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", written.read_text(), flags=re.DOTALL)
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    first, second = (read_run(Storage(str(runs / name))) for name in ("alone", "arms/cool-s0"))
    mious = [run.evaluations[-1]["miou"] for run in (first, second)]
    assert f"cool-s0 {percent(mious[1])} {points(mious[1] - mious[0])} " in words
    road = [run.evaluations[-1]["iou"]["road"] for run in (first, second)]
    assert f"road {percent(road[0])} {percent(road[1])} {points(road[1] - road[0])} " in words
    assert "optim.lr 0.05 0.01 " in words
    assert "contrast.temperature 0.1 0.07 " in words
    assert "run.name" not in words, "where a run lies decides nothing"


def test_each_comparison_has_files_of_its_own(runs: Path) -> None:
    """Also of runs whose names read the same when joined, or that lie in other folders."""
    for folder in ("more", "more/else"):
        for name in ("alone", "alone-b", "b-c", "c", "d"):
            shutil.copytree(runs / "alone", runs / folder / name)
    groups = [
        ("alone", "b-c"),
        ("alone-b", "c"),
        ("alone", "c", "d"),
        ("alone", "b-c", "d"),
        ("alone", "else/c", "d"),
    ]
    places = [[str(runs / "more" / name) for name in group] for group in groups]
    folders = [pictures_folder(group).path() for group in places]
    assert len(set(folders)) == len(groups)
    (runs / "more").rename(runs / "moved")
    moved = [[str(runs / "moved" / name) for name in group] for group in groups]
    again = [pictures_folder(group).path() for group in moved]
    assert [Path(folder).name for folder in again] == [Path(folder).name for folder in folders]
    assert write_comparison(moved[0]) == f"{again[0].removesuffix('-pictures')}.html"


def test_runs_of_one_name_in_two_checkouts_are_told_apart(runs: Path, tmp_path: Path) -> None:
    places = [str(shutil.copytree(runs / "alone", tmp_path / name / "runs" / "alone")) for name in ("a", "b")]
    page = Path(write_comparison([*places, str(runs / "alone")])).read_text()
    heads = re.findall(r"<th[^>]*>(?:<[^>]+>)*([^<]*)", page)
    assert {"a/runs/alone, %", "b/runs/alone, %", f"{runs.name}/alone, %"} <= {head.strip() for head in heads}


def test_what_cannot_be_compared_is_refused(runs: Path) -> None:
    with pytest.raises(ValueError, match="arms is a search: report it alone, or name runs in it"):
        write_comparison([str(runs / "alone"), str(runs / "arms")])
    with pytest.raises(ValueError, match="alone/ is given twice"):
        write_comparison([str(runs / "alone"), f"{runs / 'alone'}/"])
