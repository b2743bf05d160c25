"""`batch_export`: a library, or what meets a filter, as a file to be downloaded.

The file is of one moment: it is read from one snapshot. So an export that was cut off begins anew,
with a later snapshot; until it is whole the file has another name, and a failed export leaves none.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

from headwater import failpoints
from headwater.changes.log import Log
from headwater.clock import Clock, rfc3339
from headwater.errors import InvalidJob, JobFailed
from headwater.filters import Filter
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Library, Position
from headwater.service.export_files import Compression, ExportFile, Made, suffix_of
from headwater.service.job_types.files import told
from headwater.service.job_types.params import filter_of, kept, read
from headwater.service.libraries import Libraries, still
from headwater.service.matching import meets
from headwater.service.sources import Format
from headwater.service.sources.columnar import arrow
from headwater.settings import StoreSettings, TransferSettings
from headwater.store.base import Reader
from headwater.threads import Pool

EXPORT = "export"
"""The name of the file in the job's folder, before its endings."""
UNFINISHED = "unfinished"

_SLICE_DOCUMENTS, _SLICE_BYTES = 200, 256 << 10
"""Read, written and let go of at once: fewer when those before were large."""


class ExportParams(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`include` has `chunks` or `vectors`: documents as their chunks, those with their vectors."""

    format: Format = "ndjson"
    compression: Compression | None = None
    include: list[Literal["chunks", "vectors"]] = []
    filter: dict[str, Any] | None = None


class BatchExport:
    """Loop only."""

    type = "batch_export"
    heavy = False
    needs_library = True

    def __init__(
        self,
        log: Log,
        libraries: Libraries,
        clock: Clock,
        settings: TransferSettings,
        store: StoreSettings,
    ) -> None:
        self.log = log
        self.libraries = libraries
        self.clock = clock
        self.settings = settings
        self.max_snapshot = store.max_snapshot
        self.pool = Pool("export-files", 2)

    async def check(self, params: Params, library: Library | None) -> Params:
        given = read(params, ExportParams)
        if given.format == "parquet":
            await self.pool.call(arrow)  # some 300 ms the first time
            if given.compression is not None:
                raise InvalidJob(
                    "Parquet is compressed as it is; leave `compression` out",
                    path="params.compression",
                )
        if given.filter is not None:
            filter_of(given.filter)
        return kept(given)

    async def run(self, context: JobContext) -> Result:
        made: Result | None = context.saved.get("made")
        if made is None:
            library = await self.libraries.fresh(context.job.library_id or "")
            made = await _Export(self, context, library).run()
            # Kept, so that an attempt that was cut off here does not make another file.
            await context.save({"made": made})
        return made


class _Export:
    """One attempt, from the beginning."""

    def __init__(self, type: BatchExport, context: JobContext, library: Library) -> None:
        self._type = type
        self._context = context
        self._library = library
        self._params = params = read(context.params, ExportParams)
        self._filter: Filter | None = None if params.filter is None else filter_of(params.filter)
        self._suffix = suffix_of(params.format, params.compression)
        self._documents = 0

    async def run(self) -> Result:
        self._context.progress(0, self._library.documents, "exporting")
        path = self._context.folder / f"{UNFINISHED}{self._suffix}"
        include = self._params.include
        with told():
            file = await self._type.pool.call(self._open, path)
        try:
            with told():
                position = await self._fill(file)
                failpoints.reach("export.before_finish")
                made: Made = await self._type.pool.call(file.finish)
            # Its documents must not live on in a file when the library was deleted meanwhile.
            await self._type.libraries.fresh(self._library.id)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(OSError):
                await self._type.pool.call(file.abandon)
            raise
        whole = self._context.folder / f"{EXPORT}{self._suffix}"
        with told():
            await self._type.pool.call(path.replace, whole)
        ends_us = self._type.clock.now_us() + round(
            self._type.settings.export_keep.total_seconds() * 1_000_000
        )
        return {
            "file": f"{self._context.job.id}{self._suffix}",
            "format": self._params.format,
            "include": sorted(include),
            "bytes": made.size_bytes,
            "sha256": made.sha256,
            "documents": self._documents,
            "cursor": str(self._type.log.cursor(position)),
            "expires_at": rfc3339(ends_us),
            "download": f"/v1/jobs/{self._context.job.id}/download",
        }

    def _open(self, path: Path) -> ExportFile:
        params = self._params
        vectors = "vectors" in params.include
        return ExportFile(
            path,
            params.format,
            params.compression,
            chunks=vectors or "chunks" in params.include,
            vectors=vectors,
        )

    async def _fill(self, file: ExportFile) -> Position:
        """Write every document; the position they stand for. Raises OSError."""
        limit_s = self._type.max_snapshot.total_seconds()
        async with self._type.log.store.snapshot() as snapshot:
            with anyio.move_on_after(limit_s) as scope:
                row: int | None = 0
                size = 16
                while row is not None:
                    after, limit = row, size

                    def write(reader: Reader, after: int = after, limit: int = limit) -> _Slice:
                        return self._slice(reader, file, after, limit)

                    written = await snapshot.read(write)
                    row, size = written.next_row, written.next_size
                    self._documents += written.documents
                    self._context.progress(self._documents)
            if scope.cancelled_caught:
                raise JobFailed(
                    f"the library could not be read within {self._type.max_snapshot}; raise "
                    "`store.max_snapshot`, or export parts of it by a `filter`"
                )
            return snapshot.position

    def _slice(self, reader: Reader, file: ExportFile, after: int, limit: int) -> _Slice:
        """In a reading thread."""
        library = still(reader, self._library)
        documents = reader.documents(library.number, after_row=after, limit=limit)
        wanted = [one for one in documents if meets(self._filter, one.metadata)]
        vectors = "vectors" in self._params.include
        size_bytes = sum(len(one.metadata) + len(one.text or "") + 100 for one in documents)
        if wanted:
            size_bytes += file.write(wanted, reader.chunks(wanted, vectors=vectors))
        next_row = documents[-1].row if len(documents) == limit else None
        fitting = _SLICE_BYTES * len(documents) // (size_bytes or 1)
        return _Slice(len(wanted), next_row, min(max(fitting, 1), _SLICE_DOCUMENTS))


class _Slice(msgspec.Struct, frozen=True):
    documents: int
    next_row: int | None
    next_size: int
