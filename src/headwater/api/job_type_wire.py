"""Bodies that submit jobs of one type: the job's own fields beside those of its type."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from headwater.service.sources import Columns, Format


class TypedInput(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every job has."""

    library: str | None = None
    priority: int = 0
    not_before: str | None = None
    max_attempts: int | None = None
    idempotency_key: str | None = None


class ImportInput(TypedInput):
    documents: list[dict[str, Any]] | None = None
    path: str | None = None
    format: Format | None = None
    columns: Columns | None = None
    delimiter: str | None = None
    encoding: str | None = None
    batch_id: str | None = None
    max_errors: int | None = None


class ExportInput(TypedInput):
    format: Format | None = None
    compression: Literal["gzip", "zstd"] | None = None
    include: list[Literal["chunks", "vectors"]] | None = None
    filter: dict[str, Any] | None = None


class DeleteInput(TypedInput):
    filter: dict[str, Any] | None = None
    ids: list[str] | None = None


class IndexInput(TypedInput):
    pass


class RegenerateInput(TypedInput):
    embedder: str | None = None
    dimension: int | None = None


ALL = [ImportInput, ExportInput, DeleteInput, IndexInput, RegenerateInput]
