"""Files that exports leave: NDJSON, CSV and Parquet, each as an import takes it.

Blocking: for a thread.
"""

from __future__ import annotations

from headwater.service.export_files.base import (
    MEDIA_TYPES,
    Compression,
    Made,
    suffix_of,
)
from headwater.service.export_files.opening import ExportFile

__all__ = ["MEDIA_TYPES", "Compression", "ExportFile", "Made", "suffix_of"]
