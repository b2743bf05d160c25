"""What an import reads: NDJSON, CSV and Parquet files, as lines of the document stream.

`open_source` gives a `Source` that goes on after any mark it has given; files are read as they are
needed, so that size does not matter. Blocking: for a thread.
"""

from __future__ import annotations

from headwater.service.sources.base import (
    COMPRESSIONS,
    FORMATS,
    Batch,
    Columns,
    Format,
    Mark,
    Source,
)
from headwater.service.sources.opening import format_of, open_source

__all__ = [
    "COMPRESSIONS",
    "FORMATS",
    "Batch",
    "Columns",
    "Format",
    "Mark",
    "Source",
    "format_of",
    "open_source",
]
