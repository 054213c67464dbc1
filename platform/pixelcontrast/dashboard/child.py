"""One server, run as a script by ``servers.Server``; imports nothing of ours.

Its settings are the first line of its standard input, whose end, when the other process ends for whatever
reason, ends this one.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

_REFUSAL = b'{"reason": "This page only shows the study: it belongs to the process that runs the search."}'
_CURVES_RELOAD_S = 5


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
    app = _read_only(wsgi(storage, artifact_store=FileSystemArtifactStore(settings["artifacts"])))
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


def _end_with_input(temporary: str | None) -> None:
    sys.stdin.read()
    if temporary:  # whoever made it may have been killed
        shutil.rmtree(temporary, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
