"""Collects the facts of one machine, as a Ray actor there or in this process. Imports no Ray itself."""

import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pixelcontrast.cluster import ray_internals
from pixelcontrast.config import ClassOrder, Data, Layout

if TYPE_CHECKING:
    from pixelcontrast.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of one machine.

    Attributes:
        versions: of Python and packages, and of the package's source.
        cores: logical CPUs.
        gpus: names of those that torch can use.
        nccl: version; None without a usable GPU.
        host: its own name.
        gloo: where gloo expects other workers to reach it: an address, or ``interface eth0``.
        token_required: whether this process's Ray demands a token; None where it runs none.
        token_file: where Ray looks for the token, and the file's mode; None if it is not there.
        disk: folder → bytes free on its file system.
        data: fingerprint of what lies in the data's folder; "" if it was not asked for.
        data_error: why it cannot be read; "" if it can.
    """

    versions: dict[str, str]
    processor: str
    cores: int
    gpus: list[str]
    nccl: str | None
    host: str
    gloo: str
    token_required: bool | None
    token_file: tuple[str, int] | None
    disk: dict[str, int]
    data: str
    data_error: str


class Probe:
    """Answers questions about the machine that it runs on.

    Args:
        name: the machine's name, and that of its file in the storage.
    """

    def __init__(self, name: str):
        self._name = name

    def look(
        self, data: str | None, layout: Layout | None, class_order: ClassOrder | None, folders: list[str]
    ) -> Facts:
        """The facts of this machine, with the free space in ``folders`` and in Ray's own."""
        import torch
        from torch.cuda import nccl

        from pixelcontrast.runs import provenance
        from pixelcontrast.training.origin import processor

        cuda = torch.cuda.is_available()
        fingerprint, error = _look_at_data(data, layout, class_order) if data is not None else ("", "")
        return Facts(
            versions=provenance.versions() | {"source": provenance.source_hash()[:12]},
            processor=processor(),
            cores=os.cpu_count() or 1,
            gpus=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            nccl=".".join(map(str, nccl.version())) if cuda else None,
            host=socket.gethostname(),
            gloo=_gloo_address(),
            token_required=_token_required(),
            token_file=_token_file(),
            disk={folder: _free(folder) for folder in [_temporary(), *folders]},
            data=fingerprint,
            data_error=error,
        )

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def write(self, storage: str) -> None:
        """Write this machine's file; raises what the storage raises."""
        _open(storage).write(self._name, self._name.encode())

    def read(self, storage: str, names: list[str]) -> list[str]:
        """The machines among ``names`` whose files are missing here, or are not as they were written."""
        folder = _open(storage)
        found = {name: folder.read(name) for name in folder.names()}
        return [name for name in names if found.get(name) != name.encode()]

    def clean(self, storage: str) -> None:
        """Delete the folder of files, unless another machine that shares it already has."""
        folder = _open(storage)
        if folder.exists():
            folder.fs.delete_dir(folder.path())


def _open(location: str) -> "Storage":
    from pixelcontrast.storage import Storage

    return Storage(location, option="--storage")


def _look_at_data(root: str, layout: Layout | None, class_order: ClassOrder | None) -> tuple[str, str]:
    """The data's fingerprint and "", or "" and what is wrong with the data. A pack knows its layout."""
    from pixelcontrast.datasets.packing.manifest import find_pack
    from pixelcontrast.datasets.segmentation import build_dataset, check_data

    try:
        pack = find_pack(root)
        layout = layout or (pack and pack.plan.layout)
        if layout is None:
            return str(sorted(path.name for path in Path(root).iterdir())), ""
        data = Data(layout=layout, root=root, class_order=class_order)
        check_data(data)
        return " ".join(build_dataset(data, split).fingerprint for split in ("train", "val")), ""
    except (OSError, ValueError) as error:
        return "", str(error)


def _gloo_address() -> str:
    """As torch chooses it: the first address of the host's own name that is of this host, else loopback's."""
    if interface := os.environ.get("GLOO_SOCKET_IFNAME"):
        return f"interface {interface}"
    found = []
    with suppress(OSError):  # a name that does not resolve
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in found:
        with suppress(OSError), socket.socket(family, kind, protocol) as listener:
            listener.bind(address)
            return str(address[0])
    return "127.0.0.1"


def _token_required() -> bool | None:
    """Whether this process's Ray demands a token; None if it runs none."""
    if not _has_ray():
        return None
    return ray_internals.token_required()


def _temporary() -> str:
    """The folder of Ray's logs and spilled objects, or the one that a local instance would use."""
    if not _has_ray():
        return tempfile.gettempdir()
    from pixelcontrast.cluster.nodes import session_folder

    return str(session_folder())


def _has_ray() -> bool:
    """Whether this process belongs to a cluster; nothing is imported to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _token_file() -> tuple[str, int] | None:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return (str(path), stat.S_IMODE(path.stat().st_mode)) if path.exists() else None


def _free(folder: str) -> int:
    """Bytes free on the file system of a folder, which need not exist yet."""
    path = Path(folder)
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
