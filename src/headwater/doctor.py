"""Checks a data folder: the store with itself, and the views with the store.

`headwater doctor` runs it beside or instead of a server. It changes nothing (but brings a store of
an older version to this one); a wrong view mends itself by a rebuild, a wrong store is told in
full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import anyio
import numpy as np

from headwater.app import Parts, started
from headwater.clock import SystemClock
from headwater.errors import HeadwaterError, Refused
from headwater.model import Library, Rows, Vectors
from headwater.search.base import Neighbours
from headwater.settings import Settings
from headwater.store import Reader

SAMPLE = 50
RECALL_FLOOR = 0.9
SAME_SCORE = 1e-6
"""Scores this near are one score: float32 keeps no more of a sum of products."""
PAGE = 10_000


class Finding(NamedTuple):
    """One check: what was looked at, whether it is well, and what was seen."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Check everything in the data folder. Raises `Refused` when there is no store to check."""
    if not (settings.data / "headwater.db").exists():
        raise Refused(f"there is no store in {settings.data}; name its folder with --data")
    return anyio.run(_examine, settings)


async def _examine(settings: Settings) -> list[Finding]:
    parts = Parts(settings, SystemClock(), visiting=True)
    findings: list[Finding] = []
    async with started(parts.store.run):
        head = await parts.store.read(lambda reader: reader.head())
        parts.log.attach(parts.store, head)
        problems = await parts.store.read(lambda reader: reader.check())
        findings.append(
            Finding("store", not problems, "; ".join(problems) or f"consistent, head at {head}")
        )
        async with started(parts.embedders.run), started(parts.engine.run):
            after = 0
            while page := await parts.libraries.page(after, 100):
                for library in page:
                    findings += await _library(parts, library)
                after = page[-1].number
    return findings


async def _library(parts: Parts, library: Library) -> list[Finding]:
    findings: list[Finding] = []
    try:
        parts.embedders.bound(library)
        findings.append(Finding(f"{library.name}: embedder", True, library.embedder_identity))
    except HeadwaterError as error:
        findings.append(Finding(f"{library.name}: embedder", False, error.detail))
    try:
        viewed = await parts.engine.rows(library)
    except HeadwaterError as error:
        return [*findings, Finding(f"{library.name}: view", False, error.detail)]
    stored, sample = await parts.store.read(lambda reader: _stored(reader, library))
    lost, extra = len(np.setdiff1d(stored, viewed)), len(np.setdiff1d(viewed, stored))
    findings.append(
        Finding(
            f"{library.name}: view",
            not lost and not extra,
            f"{len(stored)} chunks in the store, {len(viewed)} in the view"
            + (f", {lost} missing and {extra} too many" if lost or extra else ""),
        )
    )
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
