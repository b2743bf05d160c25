"""Checks a data folder: the store with itself, and the views with the store.

`headwater doctor` runs it beside or instead of a server. It changes nothing (but brings a store of
an older version to this one); a wrong view mends itself by a rebuild, a wrong store is told in
full.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio
import numpy as np

from headwater.app import Parts, started
from headwater.clock import SystemClock
from headwater.errors import HeadwaterError, LibraryNotFound, Refused
from headwater.model import Library, Rows, Vectors
from headwater.search.base import Neighbours
from headwater.search.keyword_views import KeywordViews
from headwater.search.metadata_views import Kept, MetadataViews
from headwater.search.segment import row_bytes
from headwater.settings import Settings
from headwater.store import Reader
from headwater.threads import Pool

SAMPLE = 50
RECALL_FLOOR = 0.9
SAME_SCORE = 1e-6
"""Scores this near are one score: float32 keeps no more of a sum of products."""
PAGE = 10_000
OWN_BYTES = 250_000_000
"""What a server takes with nothing loaded: code, model, ring, the heaps of the words."""

BUILDING_SHARE = 1.1
"""What making a graph takes, of what the graph does: locks and marks for its rows while they are
linked, and what else goes on while it grows; 1.03 of it for a million chunks that streamed in."""

_PATIENCE = timedelta(hours=12)


class Finding(NamedTuple):
    """One check: what was looked at, whether it is well, and what was seen."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Check everything in the data folder. Raises `Refused` when there is no store to check."""
    if not (settings.data / "headwater.db").exists():
        raise Refused(f"there is no store in {settings.data}; name its folder with --data")
    # Loading a large library may take minutes, and that is no ailment.
    patient = settings.search.model_copy(update={"max_wait": _PATIENCE})
    return anyio.run(_examine, settings.model_copy(update={"search": patient}))


async def _examine(settings: Settings) -> list[Finding]:
    clock = SystemClock()
    parts = Parts(settings, clock, visiting=True)
    findings: list[Finding] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(started(parts.store.run))
        head = await parts.store.read(lambda reader: reader.head())
        parts.log.attach(parts.store, head)
        problems = await parts.store.read(lambda reader: reader.check())
        findings.append(
            Finding("store", not problems, "; ".join(problems) or f"consistent, head at {head}")
        )
        await stack.enter_async_context(started(parts.embedders.run))
        await stack.enter_async_context(started(parts.engine.run))
        # A copy: an index belongs to one process, which may be a server that is running.
        copies = Path(stack.enter_context(TemporaryDirectory(prefix="headwater-doctor-")))
        keyword = KeywordViews(
            copies / "keyword", settings.search, parts.log, clock, keeps=lambda: True
        )
        metadata = MetadataViews(
            settings.search,
            parts.log,
            clock,
            memory_bytes=settings.search.memory_bytes,
            kept=Kept(copies / "metadata", lambda: True),
        )
        await stack.enter_async_context(started(keyword.run))
        await stack.enter_async_context(started(metadata.run))
        after = 0
        views: list[int] = []
        while page := await parts.libraries.page(after, 100):
            for library in page:
                views.append(_view_bytes(library))
                findings += await _library(parts, library)
                for name, followers, following in (
                    ("keyword", keyword, parts.keyword),
                    ("metadata", metadata, parts.metadata),
                ):
                    if following.kept(library.id):
                        await Pool("doctor", 1).call(_copy, settings.data, copies, name, library.id)
                        findings += await _following(parts, name, followers, library)
            after = page[-1].number
        filters = sum(one.memory_bytes for one in metadata.status())
        findings.append(_memory(views, filters, settings))
    return findings


def _view_bytes(library: Library) -> int:
    """What its vectors and graph take in memory."""
    return library.chunks * row_bytes(library.dimension, library.quantization == "int8")


def _memory(views: Sequence[int], filters: int, settings: Settings) -> Finding:
    """What a server of this folder will need; telling, not judging."""
    total, largest = sum(views), max(views, default=0)
    own = filters + OWN_BYTES
    budget = settings.search.memory_bytes
    megabyte = 1_000_000
    detail = (
        f"about {(total + own) / megabyte:,.0f} MB with all vectors loaded, up to "
        f"{(total + BUILDING_SHARE * largest + own) / megabyte:,.0f} MB while the largest graph is "
        "rebuilt; "
        "beside that, pages of the files stay mapped that the system takes back when it needs them"
    )
    if total > budget:
        detail += (
            f"; more than search.memory_bytes ({budget / megabyte:,.0f} MB): libraries are "
            "unloaded and loaded again as they are used"
        )
    return Finding("memory", True, detail)


async def _following(
    parts: Parts, name: str, views: KeywordViews | MetadataViews, library: Library
) -> list[Finding]:
    """An index of words or of metadata with the store."""
    name = f"{library.name}: {name}"

    async def viewed() -> Rows:
        return await views.rows(library)

    def stored(reader: Reader) -> Rows:
        return _text_rows(reader, library)

    try:
        told = await _compared(parts, stored, viewed, "index")
    except LibraryNotFound:
        return []  # deleted meanwhile
    except HeadwaterError as error:
        return [Finding(name, False, error.detail)]
    reasons = [one.reason for one in views.status() if one.library_id == library.id]
    anew = f"; made anew: {reasons[0]}" if any(reasons) else ""
    return [Finding(name, told.ok, told.detail + anew)]


def _copy(data: Path, copies: Path, *place: str) -> None:
    """What changes while it is copied gives a copy that is found out, and made anew."""
    for kept in data.joinpath(*place[:-1]).glob(f"{place[-1]}*"):
        copy = copies.joinpath(*place[:-1], kept.name)
        copy.parent.mkdir(exist_ok=True)
        with suppress(OSError, shutil.Error):
            if kept.is_dir():
                shutil.copytree(kept, copy)
            else:
                shutil.copy(kept, copy)


async def _library(parts: Parts, library: Library) -> list[Finding]:
    findings: list[Finding] = []
    try:
        parts.embedders.bound(library)
        findings.append(Finding(f"{library.name}: embedder", True, library.embedder_identity))
    except HeadwaterError as error:
        findings.append(Finding(f"{library.name}: embedder", False, error.detail))
    sample: Vectors = np.empty((0, library.dimension), np.float32)

    async def viewed() -> Rows:
        return await parts.engine.rows(library)

    def stored(reader: Reader) -> Rows:
        nonlocal sample
        rows, sample = _stored(reader, library)
        return rows

    try:
        told = await _compared(parts, stored, viewed, "view")
    except LibraryNotFound:
        return []  # deleted meanwhile
    except HeadwaterError as error:
        return [*findings, Finding(f"{library.name}: view", False, error.detail)]
    findings.append(Finding(f"{library.name}: view", told.ok, told.detail))
    if len(sample):
        k = [10] * len(sample)
        quick = await parts.engine.search(library, sample, k)
        exact = await parts.engine.search(library, sample, k, exact=True)
        recall = _recall(quick, exact)
        findings.append(
            Finding(
                f"{library.name}: recall",
                recall >= RECALL_FLOOR,
                f"recall@10 {recall:.3f} on {len(sample)} of its own vectors",
            )
        )
    return findings


class _Compared(NamedTuple):
    ok: bool
    detail: str


async def _compared(
    parts: Parts,
    stored: Callable[[Reader], Rows],
    viewed: Callable[[], Awaitable[Rows]],
    where: str,
) -> _Compared:
    """The rows of the store with those of a view, while a server may be writing.

    The view is asked between two looks at the store. What was there both times must be in it, and
    what was there neither time must not; rows only rise, so that one above the first look's may
    have come and gone in between.
    """
    before, head = await parts.store.read(lambda reader: (stored(reader), reader.head()))
    parts.log.hear(head)
    view = await viewed()
    after, wrote = before, False
    if not np.array_equal(before, view):
        after, later = await parts.store.read(lambda reader: (stored(reader), reader.head()))
        wrote = later > head
    lost = len(np.setdiff1d(np.intersect1d(before, after), view))
    extra = np.setdiff1d(view, np.union1d(before, after))
    if wrote:
        extra = extra[extra <= (before[-1] if len(before) else 0)]
    many = len(extra)
    return _Compared(
        not lost and not many,
        f"{len(after)} chunks in the store, {len(view)} in the {where}"
        + (f", {lost} missing and {many} too many" if lost or many else ""),
    )


def _recall(quick: Sequence[Neighbours], exact: Sequence[Neighbours]) -> float:
    """How much of what belongs in the answers is in them.

    Judged by score: of passages that are equally near, as copies of a text are, any will do.
    """
    found = wanted = 0
    for given, best in zip(quick, exact, strict=True):
        if len(best.rows):
            wanted += len(best.rows)
            found += int((given.scores >= best.scores[-1] - SAME_SCORE).sum())
    return found / max(1, wanted)


def _text_rows(reader: Reader, library: Library) -> Rows:
    """All chunk rows."""
    rows: list[int] = []
    while found := reader.texts_after(library.number, rows[-1] if rows else 0, PAGE):
        rows += [row for row, _, _ in found]
    return np.array(rows, np.int64)


def _stored(reader: Reader, library: Library) -> tuple[Rows, Vectors]:
    """All chunk rows with a vector, and a spread sample of the vectors."""
    rows: list[Rows] = []
    sample: list[Vectors] = []
    after = 0
    while True:
        found, vectors = reader.vectors_after(library.number, after, PAGE)
        if not len(found):
            break
        rows.append(found)
        sample.append(vectors[:: max(1, len(vectors) // SAMPLE)])
        after = int(found[-1])
    if not rows:
        return np.empty(0, np.int64), np.empty((0, library.dimension), np.float32)
    together = np.concatenate(sample)
    return np.concatenate(rows), together[:: max(1, len(together) // SAMPLE)]
