"""The command ``pixelcontrast``: its help, its version, and what it says to a mistake."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from pixelcontrast import Data, Experiment, Run, cli, config
from pixelcontrast.cli.commands import COMMANDS


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Status, and what it prints; 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["pixelcontrast", *args])
    status = 0
    try:
        cli.command()
    except SystemExit as ended:
        status = int(ended.code or 0)
    shown = capsys.readouterr()
    return status, shown.out + shown.err


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_help_shows_the_commands_in_the_order_of_the_journey(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = said(monkeypatch, capsys, *args)
    assert status == 0
    order = ["data", "train", "report", "dashboard", "verify", "reproduce", "doctor"]
    places = [shown.index(f"• {name} ") for name in order]
    assert places == sorted(places)


def test_every_command_has_a_line_of_help_that_fits() -> None:
    for function in COMMANDS.values():
        line = (function.__doc__ or "").partition("\n")[0]
        assert line.endswith("."), line
        assert len(line) < 110, line


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = said(monkeypatch, capsys, name, "--help")
    assert status == 0
    assert shown.startswith(f"usage: pixelcontrast {name}")


def test_version_is_the_installed_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = importlib.metadata.version("pixelcontrast")
    assert said(monkeypatch, capsys, "--version") == (0, f"pixelcontrast {wanted}\n")


def test_a_mistyped_command_is_told_which_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = said(monkeypatch, capsys, "trian")
    assert status == 2
    assert "trian" in shown
    commands = "data, train, evaluate, predict, export, report, inspect, dashboard, verify, reproduce, doctor"
    assert commands in " ".join(shown.split())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data check x --processes 0", "--processes 0: allowed are 1 and more"),
        ("data check x --limit -1", "--limit -1: allowed are 0 and more"),
        ("data init x --processes 0", "--processes 0: allowed are 1 and more"),
        ("data pack x y --processes 0", "--processes 0: allowed are 1 and more"),
        ("data show x --num 0", "--num 0: allowed are 1 and more"),
        ("data show x --crop-size 0 4", "crop_size.0: Input should be greater than or equal to 1 (got 0)"),
        ("evaluate x --processes 0", "--processes 0: allowed are 1 and more"),
        (
            "doctor --layout camvid",
            "--layout camvid: there is no --data to look at; give the data set's folder, too",
        ),
        (
            "doctor --class-order voc",
            "--class-order voc: there is no --data to look at; give the data set's folder, too",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option(
    command: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(monkeypatch, capsys, *command.split()) == (2, f"{message}\n")


def test_train_takes_the_settings_of_a_file_as_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data are looked for under the changed root, which is not there."""
    file = tmp_path / "experiment.json"
    file.write_text(config.to_json(Experiment(data=Data(layout="camvid", root="x"), run=Run(name="street"))))
    options = ["--data.root", str(tmp_path / "nowhere"), "--run.storage", str(tmp_path / "runs")]
    status, shown = said(monkeypatch, capsys, "train", str(file), *options, "--model.backbone", "resnet18")
    assert status == 2
    assert str(tmp_path / "nowhere") in shown
    status, shown = said(monkeypatch, capsys, "train", str(file), "--help")
    assert status == 0
    assert f"pixelcontrast train {file}" in " ".join(shown.split())
    assert "street" in shown


def test_train_takes_the_folder_of_a_run_as_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = said(monkeypatch, capsys, "train", str(tmp_path), "--help")
    assert status == 2
    assert f"{tmp_path}/experiment.json cannot be read: " in shown
    recorded = Experiment(data=Data(layout="camvid", root="x"), run=Run(name="street"))
    (tmp_path / "experiment.json").write_text(config.to_json(recorded))
    status, shown = said(monkeypatch, capsys, "train", str(tmp_path), "--help")
    assert status == 0
    assert "street" in shown


def test_help_is_light() -> None:
    code = "import sys\nfrom pixelcontrast.cli import command\nsys.argv = ['pixelcontrast', '--help']\n"
    code += "try: command()\nfinally: print('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.partition("loaded:")[2].split()
    assert not {"torch", "ray", "timm", "torchvision"} & set(loaded)
