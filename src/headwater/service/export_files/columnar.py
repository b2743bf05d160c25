"""Parquet files, written with pyarrow.

Metadata is JSON in a string, as it is in CSV; vectors are lists of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater.model import Chunk, Document
from headwater.service.export_files.base import Raw, whole_text
from headwater.service.sources.columnar import arrow

_GROUP_DOCUMENTS = 10_000
_GROUP_BYTES = 32 << 20


class ParquetFile:
    """Documents gather into row groups of a bounded size."""

    def __init__(self, raw: Raw, *, chunks: bool, vectors: bool) -> None:
        self._pa = pa = arrow("pyarrow")
        self._chunks = chunks
        self._vectors = vectors
        fields = [("text", pa.string()), ("metadata", pa.string())]
        if vectors:
            fields.append(("vector", pa.list_(pa.float32())))
        self._chunk = pa.struct(fields)
        self._schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                ("title", pa.string()),
                ("text", pa.string()),
                ("texts", pa.list_(pa.string())),
                ("chunks", pa.list_(self._chunk)),
                ("metadata", pa.string()),
            ]
        )
        self._file = pa.PythonFile(raw, mode="w")
        self._writer = arrow().ParquetWriter(self._file, self._schema, compression="zstd")
        self._batches: list[Any] = []
        self._documents = self._size_bytes = 0

    def write(self, documents: Sequence[Document], chunks: Sequence[Sequence[Chunk]]) -> int:
        batch = self._batch(documents, chunks)
        self._batches.append(batch)
        self._documents += len(documents)
        self._size_bytes += batch.nbytes
        if self._documents >= _GROUP_DOCUMENTS or self._size_bytes >= _GROUP_BYTES:
            self._flush()
        return int(batch.nbytes)

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        self._file.flush()

    def abandon(self) -> None:
        self._batches.clear()
        self._writer.close()  # or it would want to when nobody listens any more

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(self._pa.Table.from_batches(self._batches, self._schema))
        self._batches.clear()
        self._documents = self._size_bytes = 0

    def _batch(self, documents: Sequence[Document], chunks: Sequence[Sequence[Chunk]]) -> Any:
        pa = self._pa
        forms = ["chunks" if self._chunks else document.form for document in documents]
        every = list(zip(documents, chunks, forms, strict=True))
        return pa.RecordBatch.from_arrays(
            [
                pa.array([document.id for document in documents], pa.string()),
                pa.array([document.title for document in documents], pa.string()),
                pa.array(
                    [whole_text(one, own) if form == "text" else None for one, own, form in every],
                    pa.string(),
                ),
                pa.array(
                    [
                        [chunk.text for chunk in own] if form == "texts" else None
                        for _, own, form in every
                    ],
                    pa.list_(pa.string()),
                ),
                self._lists([own if form == "chunks" else None for _, own, form in every]),
                pa.array([one.metadata.decode() for one, _, _ in every], pa.string()),
            ],
            schema=self._schema,
        )

    def _lists(self, lists: Sequence[Sequence[Chunk] | None]) -> Any:
        """Each document's chunks, null where there are none to be written."""
        pa = self._pa
        flat = [chunk for own in lists for chunk in own or ()]
        arrays = [
            pa.array([chunk.text for chunk in flat], pa.string()),
            pa.array(
                [None if chunk.metadata is None else chunk.metadata.decode() for chunk in flat],
                pa.string(),
            ),
        ]
        if self._vectors:
            vectors = [chunk.vector for chunk in flat]
            there = [vector for vector in vectors if vector is not None]
            values = np.concatenate(there) if there else np.empty(0, np.float32)
            arrays.append(
                self._list(
                    [None if vector is None else len(vector) for vector in vectors],
                    pa.array(values, pa.float32()),
                )
            )
        structs = pa.StructArray.from_arrays(arrays, fields=list(self._chunk))
        return self._list([None if own is None else len(own) for own in lists], structs)

    def _list(self, lengths: Sequence[int | None], values: Any) -> Any:
        """A list array of `values`, one list of each length, null where that is None."""
        pa = self._pa
        ends = np.cumsum([0, *(length or 0 for length in lengths)], dtype=np.int32)
        missing = np.array([length is None for length in lengths], np.bool_)
        return pa.ListArray.from_arrays(pa.array(ends), values, mask=pa.array(missing))
