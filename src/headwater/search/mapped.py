"""Float32 vectors that lie in a file instead of memory, seen as an array.

What a quantised segment compares exactly: read where it is needed, kept by the system as long as
there is room. The files of a running server have no name and go with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from headwater.model import Vectors

_BLOCK_ROWS = 4_096


def written(pieces: Iterable[Vectors], dimension: int, folder: Path) -> Vectors:
    """The pieces as one array (n, dimension), in a nameless file in `folder`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with tempfile.TemporaryFile(dir=folder) as file:
        for piece in pieces:
            for block in blocks(piece):
                file.write(block.data)
            count += len(piece)
        file.flush()
        if not count:
            return np.empty((0, dimension), np.float32)
        return np.memmap(file, np.float32, "r", shape=(count, dimension))


def blocks(vectors: Vectors) -> Iterator[Vectors]:
    """Parts of an array in memory, one after the other."""
    for at in range(0, len(vectors), _BLOCK_ROWS):
        yield np.ascontiguousarray(vectors[at : at + _BLOCK_ROWS], np.float32)


def mapped(path: Path, count: int, dimension: int) -> Vectors:
    """The vectors that a file holds. The file may be unlinked meanwhile. Raises OSError."""
    if not count:
        return np.empty((0, dimension), np.float32)
    return np.memmap(path, np.float32, "r", shape=(count, dimension))
