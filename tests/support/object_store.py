"""A real S3 server on this machine, which can refuse requests, and kill a process amid its work."""

import os
import signal
import threading
from collections.abc import Callable, Iterable
from itertools import count
from types import TracebackType
from typing import Any, Self

from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import WSGIRequestHandler, make_server

CANARY = "canary-of-the-secret-in-the-environment"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_EC2_METADATA_DISABLED": "true",
}
_BUCKET = "bucket"


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None: ...


class ObjectStore:
    """moto's S3 on 127.0.0.1, with one bucket; what is stored lies in this process."""

    def __init__(self) -> None:
        self._s3 = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.refused: Callable[[str, str], bool] = lambda _method, _path: False
        """Whether the server has no room for a request of this method and path."""
        self._instant = lambda: None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def make_bucket(self) -> None:
        """Unless it is there; other tests with moto in this process empty it."""
        creating, _ = fs.FileSystem.from_uri(f"{self.uri('')}&allow_bucket_creation=true")
        creating.create_dir(_BUCKET)

    def uri(self, path: str, bucket: str = _BUCKET) -> str:
        """A location as a user writes it for a store that is not Amazon's."""
        options = f"endpoint_override=127.0.0.1:{self._server.server_port}&scheme=http&region=us-east-1"
        return f"s3://{bucket}/{path}?{options}"

    def kill(self, process: int, *, at: int) -> None:
        """Kill a process at an instant of its next requests: 1 before the first is served, 2 after it, …"""
        instants = count(1)

        def instant() -> None:
            if next(instants) == at:
                os.kill(process, signal.SIGKILL)

        self._instant = instant

    def let_live(self) -> None:
        """Kill nobody from now on."""
        self._instant = lambda: None

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.refused(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>no room for this</Message></Error>"]
        self._instant()
        answer = list(self._s3(environ, start_response))
        self._instant()
        return answer
