"""Is everything in a run's folder as it was written, and does it fit together? Nothing is changed."""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import (
    ATTEMPTS,
    CONFUSION,
    EXPERIMENT,
    METRICS,
    RESULT,
    TABLE,
    Row,
    lacking,
    parse_experiment,
)
from pixelcontrast.storage import Storage
from pixelcontrast.words import count, percent

_PNG = b"\x89PNG\r\n\x1a\n"
_PARTIAL = "of an interrupted writing or deletion; the run removes it when it is resumed"


class ContentsVerifier(Protocol):
    """Says what is wrong in a checkpoint's files, though their bytes are those written: file → what."""

    def __call__(self, parts: Mapping[str, bytes], /, *, step: int) -> dict[str, str]: ...


class Line(NamedTuple):
    """What was found about a file or folder; ``left over`` harms nothing."""

    state: Literal["ok", "DAMAGED", "left over"]
    name: str
    text: str


def verify_files(location: str | os.PathLike[str], *, verify_contents: ContentsVerifier) -> Iterator[Line]:
    """Look at every file of a run that is not running now but TensorBoard's events and Ray's own.

    Checkpoints are compared with their manifests (size, sha256); the metrics must be in order and agree with
    checkpoints and result.

    Args:
        location: the run's folder, ``<storage>/<name>``: a local one, or a URI that ``pyarrow.fs`` reads.
        verify_contents: called with the parts of every checkpoint whose bytes are those written.

    Yields:
        A line for every damage and every part that is sound, as it is found.

    Raises:
        ValueError: no run lies there.
    """
    run = Storage(os.fspath(location), option="RUN")
    if not any(run.exists(name) for name in (EXPERIMENT, METRICS, checkpoint.FOLDER)):
        raise ValueError(f"{run.location}: there is no run here")
    return _Verification(run, verify_contents).lines()


class _Verification:
    """Reads one run; what could be read of a file stays for the comparison with the next ones."""

    def __init__(self, run: Storage, verify_contents: ContentsVerifier):
        self._run, self._verify_contents = run, verify_contents
        self._experiment: Experiment | None = None
        self._attempts: list[Row] | None = None
        self._rows: list[Row] | None = None

    def lines(self) -> Iterator[Line]:
        yield from self._file(EXPERIMENT, self._check_experiment)
        yield from self._file(ATTEMPTS, self._check_attempts)
        yield from self._file(METRICS, self._check_metrics)
        yield from self._checkpoints()
        for name in self._run.names("overlays"):
            if not name.startswith("."):
                yield from self._file(f"overlays/{name}", _check_picture)
        for name, check in {
            CONFUSION: self._check_confusion,
            RESULT: self._check_result,
        }.items():
            if self._run.exists(name):
                yield from self._file(name, check)
        if self._run.exists(RESULT):
            yield from self._file(TABLE, self._check_table)
        for folder in ("", "overlays"):
            for name in self._run.names(folder):
                if name.startswith(".") and name.endswith(".partial"):
                    yield Line("left over", f"{folder}/{name}".lstrip("/"), _PARTIAL)

    def _file(self, name: str, check: Callable[[bytes], str]) -> Iterator[Line]:
        """The line about a file, of which ``check`` says what it holds or raises what is wrong."""
        if not self._run.exists(name):
            yield Line("DAMAGED", name, "is missing")
            return
        try:
            text = check(self._run.read(name))
        except (LookupError, TypeError, AttributeError) as error:
            yield Line("DAMAGED", name, f"does not hold what it should: {type(error).__name__}: {error}")
        except (ValueError, OSError) as error:
            yield Line("DAMAGED", name, str(error).removeprefix(f"{name} "))
        else:
            yield Line("ok", name, text)

    def _check_experiment(self, content: bytes) -> str:
        self._experiment = parse_experiment(content, where=EXPERIMENT)
        recorded = config.recorded_fingerprint(content)
        # A later version has more settings, and may have resumed the run.
        self._configurations = (recorded, config.fingerprint(self._experiment))
        return f"configuration {recorded[:12]}"

    def _check_attempts(self, content: bytes) -> str:
        rows = _read_lines(content, ATTEMPTS)
        _require(
            [row["attempt"] for row in rows] == [*range(1, len(rows) + 1)], "attempts are not 1, 2, 3, …"
        )
        self._attempts = rows
        return count(len(rows), "attempt")

    def _check_metrics(self, content: bytes) -> str:
        rows, seen = _read_lines(content, METRICS), set()
        saved = checkpoint.names(self._run)
        _require(bool(rows) or not saved, f"is empty, but the run has {', '.join(saved)}")
        last: Mapping[str, Any] = {"step": 0, "attempt": 1}
        for number, row in enumerate(rows, start=1):
            for key in ("step", "attempt"):
                text = f"line {number} has {key} {row[key]} after {last[key]}"
                _require(row[key] >= last[key], text)
            what = row["kind"], row["step"]
            _require(what not in seen, f"line {number} is a second {row['kind']} row of step {row['step']}")
            seen.add(what)
            last = row
        if self._experiment is not None:
            steps = self._experiment.optim.steps
            _require(last["step"] <= steps, f"step {last['step']} is beyond the last, {steps}")
        if self._attempts is not None:
            starts = len(self._attempts)
            _require(not rows or last["attempt"] <= starts, f"attempt {last['attempt']} of {starts}")
        self._rows = rows
        return f"{count(len(rows), 'row')} to step {last['step']}"

    def _checkpoints(self) -> Iterator[Line]:
        found = self._run.names(checkpoint.FOLDER)
        newest: tuple[str, Row] | None = None
        for name in found:
            folder = f"{checkpoint.FOLDER}/{name}"
            writing = not self._run.is_local and not self._run.exists(f"{folder}/{checkpoint.MANIFEST}")
            if checkpoint.is_left_over(name):
                yield Line("left over", folder, _PARTIAL)
            elif not checkpoint.is_checkpoint(name):
                yield Line("left over", folder, "is no checkpoint of the run, which leaves it alone")
            elif writing:
                yield Line("left over", folder, _PARTIAL)
            else:
                lines, loop = self._checkpoint(folder)
                yield from lines
                newest = (folder, loop) if loop else newest
        if newest is not None and newest[1]["best_step"]:
            best = checkpoint.folder_of(newest[1]["best_step"])
            if best.removeprefix(f"{checkpoint.FOLDER}/") not in found:
                yield Line("DAMAGED", best, f"is missing: {newest[0]} names it as the best")

    def _checkpoint(self, folder: str) -> tuple[list[Line], Row | None]:
        """The lines about a checkpoint, and its place in the run if it is sound."""
        try:
            manifest = checkpoint.read_manifest(self._run, folder)
        except (ValueError, OSError):
            return [Line("DAMAGED", f"{folder}/{checkpoint.MANIFEST}", "is missing or cannot be read")], None
        extra = set(self._run.names(folder)) - manifest.files.keys() - {checkpoint.MANIFEST}
        lines = [Line("left over", f"{folder}/{name}", "is not in the manifest") for name in sorted(extra)]
        damaged: dict[str, str] = {}
        parts: dict[str, bytes] = {}
        for name in manifest.files:
            try:
                parts |= checkpoint.load(self._run, folder, only=[name])
            except (ValueError, OSError) as error:
                damaged[name] = str(error).removeprefix(f"{folder}/{name} ")
        if checkpoint.folder_of(manifest.step) != folder:
            damaged[checkpoint.MANIFEST] = f"is that of step {manifest.step}"
        elif not damaged:
            damaged = self._verify_contents(parts, step=manifest.step)
        if not damaged:
            damaged = self._compare(parts)
        if damaged:
            return [*lines, *(Line("DAMAGED", f"{folder}/{name}", damaged[name]) for name in damaged)], None
        size = sum(map(len, parts.values())) / 1e6
        return [*lines, Line("ok", folder, f"{count(len(parts), 'file')}, {size:.1f} MB")], json.loads(
            parts["loop.json"]
        )

    def _compare(self, parts: Mapping[str, bytes]) -> dict[str, str]:
        """What a checkpoint, sound in itself, says otherwise than the run's folder: file → text."""
        loop, found = json.loads(parts["loop.json"]), {}
        if self._experiment is not None:
            theirs = parse_experiment(parts[EXPERIMENT], where=EXPERIMENT)
            changed = config.differences(self._experiment, theirs)
            if changed:
                found[EXPERIMENT] = f"is not the run's: {', '.join(changed)}"
        if self._rows is None:
            return found
        scores = {row["step"]: row["miou"] for row in self._rows if row["kind"] == "eval"}
        if loop["step"] not in {row["step"] for row in self._rows}:
            found["loop.json"] = f"has step {loop['step']}, of which metrics.jsonl has no row"
        elif loop["best_step"] and scores.get(loop["best_step"]) != loop["best_miou"]:
            found["loop.json"] = (
                f"has mIoU {loop['best_miou']} at step {loop['best_step']} as the best, metrics.jsonl has "
                f"{scores.get(loop['best_step'], 'none there')}"
            )
        return found

    def _check_confusion(self, content: bytes) -> str:
        found = _read_object(content, CONFUSION)
        size = len(found["classes"])
        square = len(found["pixels"]) == size and all(len(row) == size for row in found["pixels"])
        _require(square, f"pixels are not {size} × {size}")
        colors = len(found.get("colors", found["classes"]))  # runs of earlier versions have none
        _require(colors == size, f"has {colors} colors of {size} classes")
        return f"of step {found['step']}"

    def _check_result(self, content: bytes) -> str:
        result = _read_object(content, RESULT)
        for name in (result["checkpoint"], result["best_checkpoint"], result["overlays"]):
            _require(self._run.exists(name), f"names {name}, which is missing")
        if self._attempts is not None:
            starts = len(self._attempts)
            _require(
                result["attempts"] <= starts,
                f"counts {count(result['attempts'], 'attempt')}, attempts.jsonl {starts}",
            )
        if self._experiment is not None:
            steps = self._experiment.optim.steps
            _require(result["step"] == steps, f"is of step {result['step']}, but the run has {steps}")
            of = result["provenance"].get("configuration", self._configurations[0])
            _require(of in self._configurations, "is of another configuration than experiment.json")
        if self._rows is not None:
            scores = {row["step"]: row["miou"] for row in self._rows if row["kind"] == "eval"}
            best = result["best"]
            for step, miou in ((result["step"], result["miou"]), (best["step"], best["miou"])):
                there = scores.get(step, "none there")
                _require(there == miou, f"has mIoU {miou} at step {step}, metrics.jsonl has {there}")
            higher = [step for step, miou in scores.items() if miou > best["miou"]]
            _require(not higher, f"best is step {best['step']}, but metrics.jsonl has more at step {higher}")
        return (
            f"step {result['step']}, mIoU {percent(result['miou'])} %, {count(result['attempts'], 'attempt')}"
        )

    def _check_table(self, content: bytes) -> str:
        # Of a file in Python's memory, pyarrow's threads would still wait for Python's lock after an error,
        # and abort the process at its end. Its errors are ValueError and OSError.
        table = pq.read_table(pa.BufferReader(content))
        if self._rows is not None:
            steps = [row["step"] for row in self._rows]
            _require(table.column("step").to_pylist() == steps, "has other rows than metrics.jsonl")
        return count(table.num_rows, "row")


def _check_picture(content: bytes) -> str:
    """Compare a PNG's chunks with their checksums: length, kind, data, CRC-32 of the latter two."""
    _require(content.startswith(_PNG), "is no PNG")
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(content[place : place + 4])
        kind = content[place + 4 : place + 8]
        checksum = zlib.crc32(content[place + 4 : end]).to_bytes(4)
        _require(content[end : end + 4] == checksum, f"is cut off or altered from byte {place} on")
        place = end + 4
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])  # IHDR comes first
    return f"{width}×{height}"


def _read_object(content: bytes, name: str) -> Row:
    found = json.loads(content)
    if lacks := lacking(found, name):
        raise ValueError(lacks)
    return found


def _read_lines(content: bytes, name: str) -> list[Row]:
    rows, lines = [], content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not content.endswith(b"\n"):  # as ``read_rows`` tells it
                raise ValueError(f"line {number}, the last, is cut off; resuming the run drops it") from error
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if lacks := lacking(row, name):
            raise ValueError(f"line {number} {lacks}")
        rows.append(row)
    return rows


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
