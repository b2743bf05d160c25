"""Rows of a table as documents: which column is what.

For CSV, whose values are all text, and for Parquet, whose are not. The columns of an export make
the documents that were exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headwater.errors import InvalidDocument, UnreadableFile
from headwater.service.sources.base import Columns

_encode = msgspec.json.Encoder().encode


class Table:
    """Makes documents of rows. Raises `UnreadableFile` when the columns cannot be used."""

    def __init__(self, names: Sequence[str], columns: Columns) -> None:
        def find(role: str) -> str | None:
            named: str | None = getattr(columns, role)
            if named is not None and named not in names:
                raise UnreadableFile(
                    f"there is no column {named!r}; set `columns.{role}` to one of "
                    f"{', '.join(names) or 'none'}"
                )
            return named or (role if role in names else None)

        self._id = find("id")
        self._title = find("title")
        self._text = find("text")
        self._vector = find("vector")
        self._metadata = find("metadata")
        self._texts = "texts" if "texts" in names else None
        self._chunks = "chunks" if "chunks" in names else None
        if not (self._text or self._vector or self._texts or self._chunks):
            raise UnreadableFile(
                "no column holds texts or vectors; set `columns.text` to one of "
                f"{', '.join(names) or 'none'}"
            )

    def line(self, row: dict[str, Any]) -> bytes:
        """The document of a row, as a line. Raises `InvalidDocument` for a value that is wrong."""
        document: dict[str, Any] = {}
        if self._id and _there(value := row.pop(self._id)):
            document["id"] = value if isinstance(value, str) else str(value)
        if self._title and _there(value := row.pop(self._title)):
            document["title"] = value
        self._put_body(row, document)
        metadata = self._metadata_of(row)
        metadata |= {name: value for name, value in row.items() if _there(value)}
        if metadata:
            document["metadata"] = metadata
        try:
            return _encode(document)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidDocument(f"the row holds a value that JSON cannot say: {error}") from None

    def _put_body(self, row: dict[str, Any], document: dict[str, Any]) -> None:
        text = row.pop(self._text) if self._text else None
        texts = self._json(row, self._texts)
        chunks = self._json(row, self._chunks)
        vector = self._json(row, self._vector)
        if chunks:
            document["chunks"] = [_chunk(chunk) for chunk in chunks]
        elif vector:
            document["chunks"] = [{"text": text, "vector": vector}]
        elif texts:
            document["texts"] = texts
        else:
            document["text"] = text or ""

    def _metadata_of(self, row: dict[str, Any]) -> dict[str, Any]:
        given = self._json(row, self._metadata)
        if given is None:
            return {}
        if isinstance(given, list):  # a map of Arrow's comes as pairs
            try:
                given = dict(given)
            except (TypeError, ValueError):
                given = None
        if not isinstance(given, dict):
            raise InvalidDocument(f"column {self._metadata!r} holds no JSON object")
        return {str(name): value for name, value in given.items() if value is not None}

    @staticmethod
    def _json(row: dict[str, Any], name: str | None) -> Any:
        """A value that is no text by nature: in a text it is JSON."""
        if name is None or not _there(value := row.pop(name)):
            return None
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidDocument(f"column {name!r} holds no JSON ({error})") from None


def _chunk(chunk: Any) -> Any:
    if not isinstance(chunk, dict):
        raise InvalidDocument("column 'chunks' holds no list of objects")
    made = {name: value for name, value in chunk.items() if value is not None}
    if isinstance(made.get("metadata"), str):
        try:
            made["metadata"] = msgspec.json.decode(made["metadata"])
        except (msgspec.DecodeError, RecursionError):
            raise InvalidDocument("the metadata of a chunk is no JSON object") from None
    return made


def _there(value: Any) -> bool:
    return value is not None and value != ""
