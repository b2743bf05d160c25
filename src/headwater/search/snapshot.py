"""Index files of one library: written whole or not at all, checked whole or not used at all.

A folder holds immutable files (graph, rows and, when quantised, vectors of each segment; one state
file with the bits and the heads) and a manifest that names them with sizes and checksums and says
up to which position they go. The manifest is renamed into place last. `upkeep.py` calls `save` and
`loader.py` `load` in threads; whatever is wrong with the files ends in `Unusable`, and the store
is read.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headwater import failpoints
from headwater.model import Metric, Position
from headwater.search.graph import faiss
from headwater.search.index import Capture, VectorIndex
from headwater.search.mapped import blocks, mapped
from headwater.search.segment import Segment
from headwater.settings import SearchSettings

FORMAT = 2
MANIFEST = "manifest.json"
_READ_BYTES = 1 << 20


class Unusable(Exception):
    """Why the files cannot be used."""


class Missing(Unusable):
    """There are no files: nothing is wrong, nothing was saved yet."""


class File(msgspec.Struct, frozen=True):
    name: str
    size: int
    checksum: int


class SavedSegment(msgspec.Struct, frozen=True):
    """`vectors` of a quantised segment; others are in the graph's file."""

    graph: File
    rows: File
    count: int
    vectors: File | None = None

    @property
    def files(self) -> list[File]:
        return [file for file in (self.graph, self.rows, self.vectors) if file is not None]


class Manifest(msgspec.Struct, frozen=True):
    """`head_rows` counts the live rows of all heads, which the state file holds after the bits."""

    format: int
    library_id: str
    log_id: str
    dimension: int
    metric: Metric
    position: Position
    last_row: int
    segments: list[SavedSegment]
    head_rows: int
    state: File
    generation: int = 0


def save(
    folder: Path,
    capture: Capture,
    *,
    token: str,
    library_id: str,
    log_id: str,
    dimension: int,
    metric: Metric,
    position: Position,
    generation: int = 0,
) -> None:
    """Make the folder say `capture` at `position`, durably. Blocks; for a thread.

    `token` is new for each call and names new files; a segment saved before is not written
    again. A crash at any moment leaves the old snapshot or the new one. Raises OSError.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        _sync_folder(folder.parent)
    known = _known_files(folder)
    saved = []
    for number, (segment, _) in enumerate(capture.segments):
        entry = known.get(segment.file or "")
        if entry is None:
            name = f"segment-{token}-{number}"
            graph = _write_graph(folder / f"{name}.graph", segment.graph)
            rows = _write(folder / f"{name}.rows", [segment.rows])
            vectors = None
            if segment.quantized:
                vectors = _write(folder / f"{name}.vectors", blocks(segment.vectors))
            entry = SavedSegment(graph, rows, segment.count, vectors)
            segment.file = graph.name
        saved.append(entry)
    heads = [head.live() for head in capture.heads]
    state = _write(
        folder / f"state-{token}.bin",
        [
            *(bitmap for _, bitmap in capture.segments),
            *(rows for rows, _ in heads),
            *(vectors for _, vectors in heads),
        ],
    )
    manifest = Manifest(
        FORMAT,
        library_id,
        log_id,
        dimension,
        metric,
        position,
        capture.last_row,
        saved,
        sum(len(rows) for rows, _ in heads),
        state,
        generation,
    )
    body = msgspec.json.encode(manifest)
    failpoints.reach("view.before_manifest")
    temporary = folder / f"{MANIFEST}.{token}"
    _write(temporary, [b"%08x " % zlib.crc32(body), body])
    _sync_folder(folder)
    temporary.replace(folder / MANIFEST)
    _sync_folder(folder)
    failpoints.reach("view.after_manifest")
    keep = {MANIFEST, state.name}
    keep |= {file.name for entry in saved for file in entry.files}
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink(missing_ok=True)


def load(
    folder: Path,
    settings: SearchSettings,
    *,
    library_id: str,
    log_id: str,
    dimension: int,
    metric: Metric,
    generation: int = 0,
    disk: Path | None = None,
) -> tuple[VectorIndex, Position]:
    """The index in `folder` and its position; quantised with `disk`. Blocks; for a thread.

    Raises `Missing` when nothing was ever saved, `Unusable` when anything at all is wrong.
    """
    try:
        manifest = _read_manifest(folder)
        wanted = (FORMAT, library_id, log_id, dimension, metric, generation)
        has = (
            manifest.format,
            manifest.library_id,
            manifest.log_id,
            manifest.dimension,
            manifest.metric,
            manifest.generation,
        )
        if has != wanted:
            raise Unusable(f"the snapshot is of {has}, not {wanted}")
        return _restore(folder, settings, manifest, disk), manifest.position
    except OSError as error:
        raise Unusable(f"a snapshot file cannot be read: {error}") from error


def remove(folder: Path) -> None:
    """Take the files away. Blocks; for a thread."""
    shutil.rmtree(folder, ignore_errors=True)


def _restore(
    folder: Path, settings: SearchSettings, manifest: Manifest, disk: Path | None
) -> VectorIndex:
    dimension, metric = manifest.dimension, manifest.metric
    state = memoryview(_read(folder, manifest.state))
    offset = 0

    def take(dtype: Any, count: int) -> Any:
        nonlocal offset
        array = np.frombuffer(state, dtype, count, offset)
        offset += array.nbytes
        return array

    try:
        bitmaps = [take(np.uint8, (entry.count + 7) // 8).copy() for entry in manifest.segments]
        heads = take(np.int64, manifest.head_rows)
        head_vectors = take(np.float32, manifest.head_rows * dimension).reshape(-1, dimension)
    except ValueError as error:
        raise Unusable(f"{manifest.state.name} is too short") from error
    segments = []
    for entry, bitmap in zip(manifest.segments, bitmaps, strict=True):
        own = np.frombuffer(_read(folder, entry.rows), np.int64)
        _check(folder, entry.graph)
        try:
            graph = faiss.read_index(str(folder / entry.graph.name))
        except RuntimeError as error:
            raise Unusable(f"{entry.graph.name} is no index: {error}") from error
        if (
            not isinstance(graph, faiss.IndexHNSWFlat if disk is None else faiss.IndexHNSWSQ)
            or (entry.vectors is None) != (disk is None)
            or (graph.ntotal, graph.d) != (entry.count, dimension)
            or len(own) != entry.count
        ):
            raise Unusable(f"{entry.graph.name} does not fit its manifest")
        vectors = None
        if entry.vectors is not None:
            _check(folder, entry.vectors)
            vectors = mapped(folder / entry.vectors.name, entry.count, dimension)
        segments.append(Segment(graph, own, bitmap, metric, vectors=vectors, file=entry.graph.name))
    return VectorIndex.restored(
        dimension, metric, settings, segments, heads, head_vectors, manifest.last_row, disk
    )


def _read_manifest(folder: Path) -> Manifest:
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        if folder.is_dir() and any(folder.iterdir()):
            raise Unusable("there are index files but no manifest") from error
        raise Missing("nothing was saved yet") from error
    checksum, _, body = content.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        raise Unusable("the manifest is damaged")
    try:
        return msgspec.json.decode(body, type=Manifest)
    except msgspec.DecodeError as error:
        raise Unusable(f"the manifest is of another format: {error}") from error


def _known_files(folder: Path) -> dict[str, SavedSegment]:
    """The segments that the folder's manifest names, by their graph file."""
    try:
        return {entry.graph.name: entry for entry in _read_manifest(folder).segments}
    except Unusable:
        return {}


def _write(path: Path, pieces: Iterable[Any]) -> File:
    checksum = size = 0
    with path.open("wb") as file:
        for piece in pieces:
            if not len(piece):
                continue
            view = memoryview(piece).cast("B")
            checksum = zlib.crc32(view, checksum)
            size += view.nbytes
            file.write(view)
        file.flush()
        os.fsync(file.fileno())
    return File(path.name, size, checksum)


def _write_graph(path: Path, graph: Any) -> File:
    try:
        faiss.write_index(graph, str(path))
    except RuntimeError as error:
        # What FAISS makes of a full or broken disk.
        raise OSError(f"{path.name} cannot be written: {error}") from error
    size, checksum = _measure(path, sync=True)
    return File(path.name, size, checksum)


def _read(folder: Path, file: File) -> bytes:
    content = (folder / file.name).read_bytes()
    if (len(content), zlib.crc32(content)) != (file.size, file.checksum):
        raise Unusable(f"{file.name} is damaged")
    return content


def _check(folder: Path, file: File) -> None:
    if _measure(folder / file.name) != (file.size, file.checksum):
        raise Unusable(f"{file.name} is damaged")


def _measure(path: Path, *, sync: bool = False) -> tuple[int, int]:
    checksum = size = 0
    with path.open("r+b" if sync else "rb") as file:
        while piece := file.read(_READ_BYTES):
            checksum = zlib.crc32(piece, checksum)
            size += len(piece)
        if sync:
            os.fsync(file.fileno())
    return size, checksum


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened; its entries are written through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
