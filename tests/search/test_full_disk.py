"""A disk that takes nothing more costs index files, never the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from heard import Heard
from search.house import DIMENSION, house, names, vectors

from headwater.search import snapshot
from headwater.search.graph import faiss

pytestmark = pytest.mark.anyio


async def test_vectors_that_cannot_be_written_leave_the_rows_in_heads(
    tmp_path: Path, heard: Heard
) -> None:
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "vectors").touch()  # no folder can be there
    async with house(tmp_path) as home:
        library = await home.create(dimension=DIMENSION, quantization="int8")
        await home.put(library, names(100), vectors(1, 100))
        await home.agrees(library)
        await heard.line("view.build_failed")
        await home.agrees(library)


async def test_graph_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    def full(graph: object, path: str) -> None:
        raise RuntimeError(f"write error in {path}: No space left on device")

    async with house(tmp_path) as home:
        library = await home.library()
        with monkeypatch.context() as patched:
            patched.setattr(faiss, "write_index", full)
            await home.put(library, names(100), vectors(1, 100))
            await home.agrees(library)
            await heard.line("view.save_failed")
        await home.agrees(library)
        manifest = home.folder / library.id / snapshot.MANIFEST
        await heard.line("view.saved")
        assert manifest.exists()
