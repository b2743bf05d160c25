"""Documents coming in, one by one, as streams and as files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from headwater.settings.section import (
    GiB,
    KiB,
    MiB,
    Seconds,
    Section,
    count,
    in_bytes,
    in_milliseconds,
    in_seconds,
)


class IngestSettings(Section):
    """Documents coming in, one by one and as streams."""

    group_lines: int = count(512, "Stream lines committed together, at most.")
    group_bytes: int = Field(
        MiB, ge=KiB, description="Bytes of stream lines committed together, at most."
    )
    linger_ms: int = in_milliseconds(
        5, "How long a started group waits for more lines when the sender pauses", least=0
    )
    spill_memory_bytes: int = in_bytes(
        4 * MiB,
        "Unread answer lines of a stream kept in memory before they go to a temporary file",
        least=64 * KiB,
    )
    spill_file_bytes: int = in_bytes(
        4 * GiB,
        "Unread answer lines of a stream kept in the temporary file before the stream stops "
        "reading its body",
        least=MiB,
    )
    chunk_size: int = count(
        1_000, "Default upper size of a chunk of `text`, in characters.", least=32
    )
    chunk_overlap: int = count(
        100, "Default overlap of neighbouring chunks, in characters.", least=0
    )


class TransferSettings(Section):
    """Imports and exports as jobs: the files they read and leave."""

    import_folder: Path | None = Field(
        None,
        description="Folder whose files imports may read by their path; none may when not set.",
    )
    upload_bytes: int = in_bytes(
        16 * GiB, "Largest file that may be sent to be imported, decompressed"
    )
    error_lines: int = count(
        100_000, "Errors of lines that one import keeps; more are only counted."
    )
    export_keep: Seconds = in_seconds(timedelta(days=1), "How long the file of an export is kept")
