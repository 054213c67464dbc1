"""The pages of a search and of a run, in a real browser, while the search runs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import optuna
import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from pixelcontrast import Search
from pixelcontrast.cli.terminal import failures_told
from pixelcontrast.config import replace
from pixelcontrast.dashboard import Pages, describe, serve, view
from pixelcontrast.dashboard.pages import _ray_dashboard
from pixelcontrast.dashboard.servers import Server, choose_port
from pixelcontrast.search.artifacts import attach_report
from pixelcontrast.search.folder import SearchFolder, open_study_storage
from pixelcontrast.storage import Storage
from searches import ARMS, SPACE, experiment, run_search

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SEARCH = Search(space=SPACE, trials=4, early_stopping="none")
LIVE_MS = 60_000
"""optuna-dashboard asks every 10 s, and its server reads the study anew after 2."""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@contextmanager
def browsing() -> Iterator[Page]:
    """A page of a headless browser."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def folder(scenes: Path, runs: Path) -> SearchFolder:
    """Two of four trials."""
    return run_search(experiment(scenes, runs), SEARCH, limit=2)


@pytest.fixture(scope="module")
def pages(folder: SearchFolder) -> Iterator[Pages]:
    """The search's pages: their two servers take seconds to start."""
    with serve(folder.storage.location) as pages:
        yield pages


def study_of(folder: SearchFolder) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=open_study_storage(folder.local, None))


def get(url: str) -> str:
    with urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def api(pages: Pages) -> str:
    """The address of the study's data."""
    assert pages.study is not None
    return pages.study.replace("/dashboard/", "/api/")


def runs_of(pages: Pages) -> list[str]:
    """The names that TensorBoard has; none while it answers 404, as it may while it reloads."""
    try:
        return json.loads(get(pages.curves.partition("?")[0] + "data/runs"))
    except HTTPError as error:
        if error.code != 404:
            raise
        return []


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def servers() -> list[psutil.Process]:
    """This process's, and what they have started."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any("dashboard/child.py" in part or "tensorboard" in part for part in process.cmdline())
    ]


@needs_browser
def test_a_search_is_shown_and_new_trials_appear(pages, folder, runs, scenes, tmp_path):
    study = study_of(folder)
    attach_report(study, _report(tmp_path), folder)
    with browsing() as page:
        assert pages.study is not None
        page.goto(pages.study)
        expect(page.get_by_text("small-search (id=0)")).to_be_visible()
        expect(page.get_by_text(f"Best Trial (number={study.best_trial.number})")).to_be_visible()
        expect(page.get_by_text(f"{study.best_value:.5g}", exact=True).first).to_be_visible()
        expect(page.get_by_text("report.html")).to_be_visible()
        page.screenshot(path=tmp_path / "study.png", full_page=True)

        page.goto(f"{pages.study}/trials")
        expect(page.get_by_text("2 Trials")).to_be_visible()
        for text in ("Trial 0 (trial_id=0)", "Trial 1", "run trial-0000", *SPACE):
            expect(page.get_by_text(text).first).to_be_visible()
        curves = f"{pages.curves.partition('?')[0]}?runFilter=%5Etrial-0000%24&smoothing=0"
        expect(page.get_by_role("link", name="its curves")).to_have_attribute("href", curves)
        for icon in ("Edit", "UploadFile", "Delete"):  # they would be refused
            assert not page.locator(f"[data-testid={icon}Icon]:visible").count()
        pictures = page.locator("img[src^='/artifacts/']")
        expect(pictures).to_have_count(2)
        for name in ("overlays.png", "confusion.png"):
            expect(page.get_by_text(name)).to_be_visible()
        page.wait_for_function(
            "[...document.querySelectorAll('img[src^=\"/artifacts/\"]')].every(i => i.naturalWidth > 0)"
        )
        page.screenshot(path=tmp_path / "trial.png")

        run_search(experiment(scenes, runs), SEARCH, limit=1)  # the page stays open
        expect(page.get_by_text("3 Trials")).to_be_visible(timeout=LIVE_MS)
        expect(page.get_by_text("Trial 2", exact=True)).to_be_visible()
        page.screenshot(path=tmp_path / "live.png")
        wait_for(lambda: "trial-0002" in runs_of(pages))


def _report(folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text("<!doctype html><title>Report</title><h1>Four trials</h1>")
    return path


@needs_browser
def test_tensorboard_shows_the_runs_by_name(pages, tmp_path):
    with browsing() as page:
        page.goto(pages.curves)
        for name in ("trial-0000", "trial-0001"):
            expect(page.get_by_text(name, exact=True).first).to_be_visible()
        for tag in ("eval/miou", "train/loss"):
            expect(page.get_by_title(tag, exact=True).first).to_be_visible()
        expect(page.locator("line-chart").first).to_be_visible()
        page.screenshot(path=tmp_path / "curves.png")
    assert set(runs_of(pages)) >= {"trial-0000", "trial-0001"}


def test_the_servers_listen_on_this_machine_only(pages):
    processes = servers()
    assert len(processes) >= 2
    found = listening(processes)
    ports = {int(url.split(":")[2].split("/")[0]) for url in (pages.study, pages.curves)}
    assert {ip for ip, _ in found} == {"127.0.0.1"}
    assert {port for _, port in found} >= ports
    text = describe(pages)
    assert pages.study in text
    assert pages.curves in text
    assert all(f"-L {port}:127.0.0.1:{port} " in text for port in ports)


def test_no_server_outlives_a_process_that_is_killed(folder):
    code = "import sys, time\nfrom pixelcontrast.dashboard import serve\n"
    code += "with serve(sys.argv[1]) as pages:\n    print(pages.curves, flush=True)\n    time.sleep(600)\n"
    command = [sys.executable, "-c", code, folder.storage.location]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | paths) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        children = psutil.Process(process.pid).children(recursive=True)
        logdirs = [part for child in children for part in child.cmdline() if part.startswith("--logdir=")]
        assert len(children) >= 2
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    assert not any(Path(logdir.removeprefix("--logdir=")).exists() for logdir in logdirs)


def test_the_pages_change_nothing(pages):
    before = get(api(pages))
    for method in ("DELETE", "POST", "PUT"):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(api(pages), data=b"{}", method=method), timeout=10)
    assert get(api(pages)) == before


def test_a_run_has_only_curves(folder):
    others = servers()
    with serve(folder.run("trial-0001").location) as pages:
        assert pages.study is None
        assert runs_of(pages) == ["trial-0001"]
        assert len(set(servers()) - set(others)) <= 2
        assert "study" not in describe(pages)


@pytest.mark.slow
def test_a_search_that_has_just_been_started_and_one_that_was_moved(folder, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copy(folder.local / "search.json", tmp_path / "new")
    with serve(str(tmp_path / "new")) as pages:
        assert (pages.study or "").endswith("/dashboard")
        assert runs_of(pages) == []
        shutil.copytree(folder.run("trial-0000").path(), tmp_path / "new" / "trial-0000")
        wait_for(lambda: runs_of(pages) == ["trial-0000"])
    shutil.copytree(folder.local, tmp_path / "moved")
    with serve(f"{tmp_path}/moved/") as pages:
        assert json.loads(get(api(pages)))["name"] == "small-search"


def two_free_ports() -> int:
    """The first of two ports in a row, from a range that the kernel gives to nobody who asks for any port."""
    for first in random.sample(range(20_000, 30_000, 2), 100):
        with suppress(ValueError):
            return choose_port(choose_port(first) + 1) - 1
    raise AssertionError("no two free ports")


@pytest.mark.slow
def test_ports_can_be_chosen_and_the_servers_end_with_the_block(folder):
    first, others = two_free_ports(), servers()
    with serve(folder.storage.location, port=first) as pages:
        assert (pages.study or "").startswith(f"http://127.0.0.1:{first}/")
        assert pages.curves.startswith(f"http://127.0.0.1:{first + 1}/")
        with (
            pytest.raises(ValueError, match=f"port {first} of 127.0.0.1 cannot be used"),
            serve(folder.storage.location, port=first),
        ):
            pass
        started = [process for process in servers() if process not in others]
        assert len(started) >= 2
    _, alive = psutil.wait_procs(started, timeout=15)
    assert not alive


def test_a_folder_of_something_else_is_refused(tmp_path):
    for location in (tmp_path, tmp_path / "missing"):
        missing = r"neither a run's folder, which has experiment\.json, nor a search's, which has"
        with pytest.raises(ValueError, match=f"{location} is {missing}"), serve(str(location)):
            pass


def test_arms_have_no_importances_and_the_page_no_error_for_it(scenes, tmp_path):
    arms = Search(arms=ARMS, seeds=(0,), name="arms")
    folder = run_search(experiment(scenes, tmp_path), arms, arms=True, limit=2)
    with serve(folder.storage.location) as pages:
        assert json.loads(get(f"{api(pages)}/param_importances")) == {"param_importances": [[]]}
        with pytest.raises(HTTPError, match="404"):
            get(f"{api(pages)[:-1]}7/param_importances")


@pytest.mark.slow
def test_a_study_in_a_database(scenes, tmp_path):
    database = f"sqlite:///{tmp_path}/study.db"
    settings, search = experiment(scenes, tmp_path), Search(space=SPACE, trials=1, study=database)
    folder = run_search(settings, search)
    other = run_search(replace(settings, {"run.name": "other"}), search)
    for search_folder in (folder, other):
        with serve(search_folder.storage.location) as pages:
            assert json.loads(get(api(pages)))["name"] == search_folder.name
    (tmp_path / "study.db").unlink()
    with pytest.raises(ValueError, match=r"study\.db does not exist"), serve(folder.storage.location):
        pass


def test_a_search_in_an_object_store_is_copied_and_the_copy_is_renewed(folder, tmp_path, monkeypatch):
    study = study_of(folder)
    there = len(study.trials)
    # To the platform the folder lies in an object store, and this machine has never run the search.
    monkeypatch.setattr(Storage, "is_local", False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(view, "REFRESH_COPIES_S", 0.5)
    with serve(folder.storage.location) as pages:
        assert f"A copy of {folder.storage.location}, " in describe(pages)
        assert set(runs_of(pages)) >= {"trial-0000", "trial-0001"}
        found = json.loads(get(api(pages)))
        artifact = found["trials"][0]["artifacts"][0]["artifact_id"]
        with urlopen(f"{api(pages).partition('/api/')[0]}/artifacts/0/0/{artifact}", timeout=10) as picture:
            assert picture.read(4) == b"\x89PNG"
        assert len(found["trials"]) == there
        study.tell(study.ask(), 0.125)
        wait_for(lambda: len(json.loads(get(api(pages)))["trials"]) == there + 1)


def test_rays_dashboard_is_named_while_it_answers(folder):
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # refuses everything: 501
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    folder.storage.write("ray.json", json.dumps({"dashboard": url}).encode())
    with serve(folder.storage.location) as pages:
        assert pages.ray == url
        assert f"Ray     {url}" in describe(pages)
    server.shutdown()
    server.server_close()
    assert _ray_dashboard(folder.storage) is None
    folder.storage.write("ray.json", b'{"dashboard": null}')  # a cluster without one
    assert _ray_dashboard(folder.storage) is None


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (None, "FileNotFoundError: [Errno 2] No such file or directory: "),
        (
            "sqlite:////missing/x.db",
            "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) unable to open",
        ),
    ],
)
def test_a_server_that_does_not_start_says_why_in_one_line(tmp_path, database, said):
    settings = {"journal": str(tmp_path / "missing" / "journal"), "database": database, "artifacts": "a"}
    with (
        pytest.raises(SystemExit) as ended,
        failures_told("Rerun."),
        Server("study", choose_port(None), {**settings, "curves": ""}) as server,
    ):
        server.wait()
    assert str(ended.value.code).startswith(f"the server of the study has ended: {said}")
    assert "\n" not in str(ended.value.code)
