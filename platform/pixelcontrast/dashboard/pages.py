"""From a location to the pages that show it."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from pixelcontrast.dashboard.servers import Server, answers, choose_port
from pixelcontrast.dashboard.view import REFRESH_COPIES_S, View, shown
from pixelcontrast.runs.record import folder_name, kind_of
from pixelcontrast.runs.run_folder import read_experiment
from pixelcontrast.runs.search_record import read_description, read_study_url
from pixelcontrast.search.folder import ARTIFACTS, JOURNAL, open_study_storage
from pixelcontrast.search.trials import find_study
from pixelcontrast.storage import Storage

RAY = "ray.json"
"""In a search's folder while it runs: ``{"dashboard": URL or null}``."""
_FIRST_CURVES = "/?smoothing=0&tagFilter=miou%7Closs"
"""TensorBoard's page without those of every class, which would come first."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Where to look.

    Attributes:
        study: the search in optuna-dashboard; None for a single run.
        curves: TensorBoard, on every run by its name.
        ray: Ray's own dashboard, if it runs on this machine and answers.
        copy_of: the object store's location, where the pages show a copy; None where they show the files.
    """

    study: str | None
    curves: str
    ray: str | None = None
    copy_of: str | None = None


@contextmanager
def serve(location: str, *, port: int | None = None) -> Iterator[Pages]:
    """Show a search or a run until the end of the block, or of this process, whatever ends it.

    Both servers listen on 127.0.0.1 only, and change nothing: a study belongs to the process that runs it.

    Args:
        location: the folder of a search or a run; a path, or a URI that ``pyarrow.fs`` reads.
        port: of the first page, the second gets the next one; None to take two free ones.

    Raises:
        ValueError: no run or search is there, its study cannot be opened, or the port is taken.
        ServerError: a server did not start; has the last line of its output.
    """
    storage = Storage(location.rstrip("/") or "/", option="RUN_OR_SEARCH")
    is_search = kind_of(storage) == "search"
    _warn_of_another_version(storage, is_search=is_search)
    with ExitStack() as stack:
        view = stack.enter_context(shown(storage, is_search=is_search))
        page = _study_path(storage, view) if is_search else ""
        first = choose_port(port)  # the study's, if there is one: it is named first where it is taken
        curves_port = choose_port(None if port is None else port + 1) if is_search else first
        curves = Server("curves", curves_port, {"logdir": str(view.curves), "temporary": str(view.folder)})
        study = _study_server(storage, view, first, curves=curves.url) if is_search else None
        for server in filter(None, (study, curves)):
            stack.enter_context(server)
        for server in filter(None, (study, curves)):
            server.wait()
        yield Pages(
            study=study.url + page if study else None,
            curves=curves.url + _FIRST_CURVES,
            ray=_ray_dashboard(storage) if is_search and not view.copies_study else None,
            copy_of=None if storage.is_local else storage.location,
        )


def describe(pages: Pages) -> str:
    """The pages as text to print, with the command that opens them from another machine."""
    lines = [("study", pages.study), ("curves", pages.curves), ("Ray", pages.ray)]
    text = [f"{name:<7} {url}" for name, url in lines if url]
    text.append(
        "TensorBoard begins with mIoU and loss: clear its tag filter to see all, and reload it with ⟳."
    )
    if pages.copy_of:
        text.append(f"A copy of {pages.copy_of}, renewed every {REFRESH_COPIES_S:g} s.")
    ports = [urlsplit(url).port for _, url in lines if url]
    forwards = " ".join(f"-L {port}:127.0.0.1:{port}" for port in ports)
    remote = f"{os.environ.get('USER', 'user')}@{socket.gethostname()}"
    return "\n".join([*text, "From another machine, first:", f"  ssh -N {forwards} {remote}"])


def _warn_of_another_version(storage: Storage, *, is_search: bool) -> None:
    """Say so where other commands cannot read the configuration: the pages show what they can."""
    try:
        if is_search:
            read_description(storage)
        else:
            read_experiment(storage)
    except ValueError as error:
        logger.warning("%s", error)


def _study_server(storage: Storage, view: View, port: int, *, curves: str) -> Server:
    settings = {
        "journal": str(view.study / JOURNAL),
        "database": read_study_url(storage),
        "artifacts": str(view.study / ARTIFACTS),
        "curves": curves,
    }
    return Server("study", port, settings)


def _study_path(storage: Storage, view: View) -> str:
    """The study's page; that of all studies while the search has not made its own yet."""
    database, name = read_study_url(storage), folder_name(storage)
    studies = open_study_storage(view.study, database)
    found = find_study(studies, name)
    if found is None and database is not None:
        raise ValueError(f"--study {database} has no study {name}; is it a file on another machine?")
    return "/dashboard" if found is None else f"/dashboard/studies/{studies.get_study_id_from_name(found)}"


def _ray_dashboard(storage: Storage) -> str | None:
    if not storage.exists(RAY):
        return None
    url = json.loads(storage.read(RAY))["dashboard"]
    return url if url and answers(url) else None
