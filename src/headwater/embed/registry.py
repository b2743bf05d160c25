"""The embedders this server can run, by name.

`app.py` builds and runs one `Embedders`; `service` asks it when a library is created and for the
embedder of a library. A library is bound to one exact model for life: vectors of two models must
never meet in one index, so a library of another identity is refused, not re-used.
"""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import anyio.abc

from headwater.embed.base import Embedder
from headwater.embed.none import NoneEmbedder
from headwater.embed.static import StaticEmbedder
from headwater.errors import EmbedderMismatch, InvalidLibrary
from headwater.model import Library


class Embedders:
    """The known embedders, running together. Loop only."""

    def __init__(self, embedders: Iterable[Embedder] | None = None) -> None:
        """`embedders` replaces the bundled ones: `static` and `none`."""
        if embedders is None:
            embedders = (StaticEmbedder(), NoneEmbedder())
        self._by_name = {embedder.name: embedder for embedder in embedders}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name))

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run all of them until cancelled; started when each has loaded."""
        async with anyio.create_task_group() as group:
            for embedder in self._by_name.values():
                await group.start(embedder.run)
            task_status.started()
            await anyio.sleep_forever()

    def get(self, name: str) -> Embedder:
        """Raises `InvalidLibrary` that names the known ones."""
        embedder = self._by_name.get(name)
        if embedder is None:
            raise InvalidLibrary(
                f"there is no embedder {name[:80]!r}; choose one of {', '.join(self.names)}"
            )
        return embedder

    def describe(self, name: str, dimension: int | None) -> tuple[str, int]:
        """The identity and dimension a new library is bound to.

        `dimension` may be left out where the embedder has one of its own, and must be given for
        `none`. Raises `InvalidLibrary`.
        """
        embedder = self.get(name)
        if embedder.dimension:
            if dimension not in (None, embedder.dimension):
                raise InvalidLibrary(
                    f"the embedder {name!r} makes vectors of {embedder.dimension} dimensions, "
                    f"not {dimension}; leave `dimension` out"
                )
            return embedder.identity, embedder.dimension
        if dimension is None:
            raise InvalidLibrary(
                f"with the embedder {name!r} vectors come from you: say their `dimension`"
            )
        if dimension < 1:
            raise InvalidLibrary(f"`dimension` is {dimension}; it must be 1 or more")
        return embedder.identity, dimension

    def bound(self, library: Library) -> Embedder:
        """The embedder of `library`. Raises `EmbedderMismatch` when it is not the one running."""
        embedder = self._by_name.get(library.embedder)
        running = None if embedder is None else embedder.identity
        if embedder is None or running != library.embedder_identity:
            raise EmbedderMismatch(
                f"the vectors of library {library.name!r} come from "
                f"{library.embedder_identity!r}, but this server runs {running!r}; serve it with "
                "the version that made it, or export it into a new library",
                stored=library.embedder_identity,
                running=running,
            )
        return embedder if embedder.dimension else NoneEmbedder(library.dimension)
