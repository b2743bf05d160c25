"""Embedders from other packages, by entry point.

A package that declares an entry point in the group `headwater.embedders` adds an embedder of that
name; the object is called with what stands behind the colon (empty when nothing does) and gives an
`Embedder`. Nothing of it is imported before a library asks for it. See docs/embedders.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headwater.embed.base import Embedder
from headwater.errors import EmbedderFailed

GROUP = "headwater.embedders"

Factory = Callable[[str], Embedder]


@cache
def declared() -> dict[str, EntryPoint]:
    """The declared plug-ins by name; the first of two with one name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point)
    return found


def make(point: EntryPoint, model: str) -> Embedder:
    """Import the plug-in and make its embedder. Raises `EmbedderFailed` when it is broken."""
    try:
        factory: Any = point.load()
        embedder = factory(model)
    except (Exception, SystemExit) as error:
        # Whatever a stranger's code raises while it is imported or made.
        raise EmbedderFailed(
            f"the plug-in {point.name!r} ({point.value}) cannot be used "
            f"({type(error).__name__}: {str(error)[:200]}); mend or reinstall its package"
        ) from error
    if not isinstance(embedder, Embedder):
        raise EmbedderFailed(
            f"the plug-in {point.name!r} ({point.value}) gave a {type(embedder).__name__}, not a "
            "headwater.embed.Embedder; see docs/embedders.md"
        )
    return embedder
