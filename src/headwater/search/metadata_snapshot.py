"""One library's index of metadata as a file, so that a restart need not read every document.

Written whole or not at all, checked whole or not used at all. It is a cache: whatever is wrong with
it ends in `Unusable`, and the index is made from the store.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import msgspec

from headwater.model import Position
from headwater.search.following import Unusable
from headwater.search.metadata import MetadataIndex, Saved

_HEAD = b"headwater metadata 1\n"
_CHECK_BYTES = 4


class Snapshot(msgspec.Struct, frozen=True):
    """`log_id` names the history in which `position` means something."""

    log_id: str
    library_id: str
    position: Position
    index: Saved


def save(path: Path, log_id: str, library_id: str, position: Position, index: MetadataIndex) -> int:
    """Write the file; its size in bytes. An index that cannot be kept leaves no file.

    Raises OSError.
    """
    snapshot = Snapshot(log_id, library_id, position, index.saved())
    try:
        body = msgspec.msgpack.encode(snapshot)
    except OverflowError:  # an integer beyond 64 bits is among the values
        path.unlink(missing_ok=True)
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}{_own_part()}")
    with part.open("wb") as file:
        file.write(_HEAD + zlib.crc32(body).to_bytes(_CHECK_BYTES, "big"))
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return len(body)


def unfinished(folder: Path) -> list[Path]:
    """Files that other processes began to write: only one writes at a time, so they are dead."""
    return [path for path in folder.glob("*.part") if not path.name.endswith(_own_part())]


def _own_part() -> str:
    return f".{os.getpid()}.part"


def load(path: Path, log_id: str, library_id: str) -> tuple[MetadataIndex, Position] | None:
    """The index and the position it stands for; None without a file. Raises `Unusable`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"{path.name} cannot be read ({error.strerror or error})") from error
    begin = len(_HEAD) + _CHECK_BYTES
    body = memoryview(content)[begin:]
    check = int.from_bytes(content[len(_HEAD) : begin], "big")
    if not content.startswith(_HEAD) or zlib.crc32(body) != check:
        raise Unusable(f"{path.name} is damaged or of another version")
    try:
        snapshot = msgspec.msgpack.decode(body, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise Unusable(f"{path.name} cannot be understood ({error})") from error
    if (snapshot.log_id, snapshot.library_id) != (log_id, library_id):
        raise Unusable(f"{path.name} is of another history or library")
    return MetadataIndex.of(snapshot.index), snapshot.position
