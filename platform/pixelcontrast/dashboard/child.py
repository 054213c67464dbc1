"""One server, run as a script by ``servers.Server``; imports nothing of ours.

Its settings are the first line of its standard input, whose end, when the other process ends for whatever
reason, ends this one.
"""

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

_REFUSAL = b'{"reason": "This page only shows the study: it belongs to the process that runs the search."}'
_CURVES_RELOAD_S = 5
_IMPORTANCES = re.compile(r"/api/studies/(\d+)/param_importances")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{5,}(e-?\d+)?")
_EDITING = ("Add", "AddBox", "Delete", "DriveFileRenameOutline", "Edit", "Save", "UploadFile")
"""Icons of optuna-dashboard's buttons that would change the study."""
_HIDDEN = ", ".join(f'button:has([data-testid="{icon}Icon"])' for icon in _EDITING)
_STYLE = (
    f"<style>{_HIDDEN} {{ display: none !important }} "
    # A note's links are a browser's dark blue, also on the dark page.
    "a:not([class]) { color: inherit }</style></head>"
)


def main() -> None:
    """Serve until the standard input ends."""
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, args=(settings.get("temporary"),), daemon=True).start()
    serve = {"study": serve_study, "curves": serve_curves}[settings["kind"]]
    serve(settings)


def serve_study(settings: dict[str, Any]) -> None:
    """optuna-dashboard on a journal or a database, with its artifacts, to look at only."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna_dashboard import wsgi

    database = settings["database"]
    storage = RDBStorage(database) if database else JournalStorage(JournalFileBackend(settings["journal"]))
    shown = wsgi(storage, artifact_store=FileSystemArtifactStore(settings["artifacts"]))
    app = _read_only(_readable(_forgiving(shown, storage), settings["curves"]))
    make_server(
        settings["host"], settings["port"], app, server_class=_Threaded, handler_class=_Quiet
    ).serve_forever()


def serve_curves(settings: dict[str, Any]) -> None:
    """TensorBoard on a folder of runs; new ones appear."""
    from tensorboard import program

    board = program.TensorBoard()
    board.configure(
        logdir=settings["logdir"],
        host=settings["host"],
        port=settings["port"],
        reload_interval=_CURVES_RELOAD_S,
    )
    board.launch()
    threading.Event().wait()


class _Threaded(ThreadingMixIn, WSGIServer):
    """A browser's idle connection does not keep the others waiting."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""


def _read_only(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [_REFUSAL]

    return answer


def _forgiving(app: Callable[..., Iterable[bytes]], storage: Any) -> Callable[..., Iterable[bytes]]:
    """With no importances where optuna-dashboard fails to find them, as for arms, which search nothing.

    It would show an error over the page, again with each refresh.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        asked = _IMPORTANCES.fullmatch(environ["PATH_INFO"])
        begun: list[Any] = []
        body = app(environ, lambda *status, **_: begun.extend(status))
        if asked and not begun[0].startswith(("200", "404")):
            objectives = len(storage.get_study_directions(int(asked[1])))
            body = [json.dumps({"param_importances": [[]] * objectives}).encode()]
            begun = ["200 OK", [("Content-Type", "application/json")]]
        start_response(*begun)
        return body

    return answer


def _readable(app: Callable[..., Iterable[bytes]], curves: str) -> Callable[..., Iterable[bytes]]:
    """Without buttons that would be refused; the study as ``_shorten`` and ``_link`` make it."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if not path.startswith(("/api/studies/", "/dashboard")):
            return app(environ, start_response)
        begun: list[Any] = []
        asked = {**environ, "HTTP_ACCEPT_ENCODING": "identity"}
        body = b"".join(app(asked, lambda status, headers, *_: begun.extend((status, headers))))
        status, headers = begun[:2]
        if status.startswith("200"):
            body = _changed_study(body, curves) if path.startswith("/api") else _without_buttons(body)
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _without_buttons(page: bytes) -> bytes:
    return page.replace(b"</head>", _STYLE.encode(), 1)


def _changed_study(body: bytes, curves: str) -> bytes:
    study = _shorten(json.loads(body))
    for trial in study.get("trials", ()) if isinstance(study, dict) else ():
        _link(trial, curves)
    return json.dumps(study).encode()


def _shorten(value: Any) -> Any:
    """With numbers of at most five significant digits, also those that are written as text."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case str() if _LONG_NUMBER.fullmatch(value) or value.startswith("{"):
            return _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.5g}", value)
        case list():
            return [_shorten(item) for item in value]
        case dict():
            return {key: _shorten(item) for key, item in value.items()}
        case _:
            return value


def _link(trial: dict[str, Any], curves: str) -> None:
    """Where a trial has no note, let it name its run, with a link to the run's curves."""
    attributes = {attribute["key"]: attribute["value"] for attribute in trial.get("user_attrs", ())}
    run, note = attributes.get("run", "").strip('"'), trial.get("note")
    if run and isinstance(note, dict) and not note.get("body"):
        note["body"] = f"Run **{run}**: [its curves]({curves}/?runFilter=%5E{run}%24&smoothing=0)"


def _end_with_input(temporary: str | None) -> None:
    sys.stdin.read()
    if temporary:  # whoever made it may have been killed
        shutil.rmtree(temporary, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
