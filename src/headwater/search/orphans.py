"""Index files of libraries that are no more.

A library may be deleted by another process, or while an earlier one could not take its files away.
The keeper of the data folder looks once when it starts: each kind of index sweeps its own folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial
from pathlib import Path

import structlog

from headwater.errors import HeadwaterError
from headwater.store.base import Reader, Store

_LIBRARY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = structlog.get_logger(__name__)


def libraries_in(folder: Path, suffix: str = "") -> list[str]:
    """The ids of the libraries whose files are there, named after them. Blocks; for a thread."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.name.endswith(suffix)]
    ids = [name.removesuffix(suffix) for name in names]
    return [id for id in ids if _LIBRARY_ID.fullmatch(id)]


async def orphans(store: Store, ids: Collection[str], *, kind: str) -> list[str]:
    """Those of `ids` that are no library's; none when the store cannot be asked now."""
    try:
        return await store.read(partial(_unknown, ids=ids))
    except HeadwaterError as error:
        log.warning("view.unswept", kind=kind, error=str(error))
        return []


def _unknown(reader: Reader, ids: Collection[str]) -> list[str]:
    found = ((id, reader.library(id)) for id in ids)
    # By a name equal to the id another library may be found.
    return [id for id, library in found if library is None or library.id != id]
