"""The outcomes as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers.outcome import Outcome
from bench.report import number

HEADS = (
    "",
    "searches/s",
    "p50",
    "p99",
    "recall@10",
    "documents/s until searchable",
    "documents/s until indexed",
    "client",
)
TARGETS = (4.0, 3.0)
"""Times Chroma's searches, and its ingest; the project's own aims."""


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    return [
        (
            each.name,
            number(each.per_second),
            f"{each.p50_ms:.1f} ms",
            f"{each.p99_ms:.1f} ms",
            f"{each.recall:.4f}",
            number(each.ingest_per_second),
            number(each.complete_per_second),
            f"{each.client_share:.0%}" if each.client_share else "within",
        )
        for each in outcomes
    ]


def plain(outcomes: Sequence[Outcome]) -> str:
    table = [HEADS, *rows(outcomes)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([*lines, "", *against_chroma(outcomes)])


def against_chroma(outcomes: Sequence[Outcome]) -> list[str]:
    """Headwater's numbers as multiples of Chroma's, beside what was aimed at."""
    named = {each.name: each for each in outcomes}
    if not {"Headwater", "Headwater, two workers", "Chroma"} <= set(named):
        return []
    theirs = named["Chroma"]
    alone, together = named["Headwater"], named["Headwater, two workers"]
    searches, ingest = TARGETS
    return [
        f"Against Chroma, which uses both cores: {together.per_second / theirs.per_second:.1f} ×"
        f" its searches by two workers, {alone.per_second / theirs.per_second:.1f} × by one"
        f" process (aimed at: {searches:.0f} ×)",
        f"Against Chroma: {alone.ingest_per_second / theirs.ingest_per_second:.1f} × its ingest"
        f" (aimed at: {ingest:.0f} ×)",
    ]


def write(
    folder: Path, machine: dict[str, Any], outcomes: Sequence[Outcome], *, connections: int
) -> None:
    """`peers.md` and `peers.json`; an earlier run is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    taken_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    document = {
        "taken_at": taken_at,
        "machine": machine,
        "outcomes": [asdict(each) for each in outcomes],
    }
    (folder / "peers.json").write_text(json.dumps(document, indent=2) + "\n")
    lines = [
        "# Side by side",
        "",
        f"Taken {taken_at} by `make bench-peers`: {outcomes[0].documents:,} texts of about 90"
        " characters with their vectors (256 dimensions, from the bundled model), k = 10,"
        f" {connections} connections. Each ran alone, one after another, load generator on the"
        " same machine.",
        "",
        "![searches and ingest side by side](peers.svg)",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|---|" + "---:|" * (len(HEADS) - 1),
        *("| " + " | ".join(row) + " |" for row in rows(outcomes)),
        "",
        *(f"- {line}." for line in against_chroma(outcomes)),
        "",
        "## How to read it",
        "",
        *_NOTES,
        "",
        "## Who",
        "",
        "| | version | spoken to by | durability | ingest | index |",
        "|---|---|---|---|---|---|",
        *(
            f"| {each.name} | {each.version} | {each.spoken} | {each.durability} | {each.ingest} |"
            f" {each.index} |"
            for each in outcomes
        ),
        "",
        "## On what",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in machine.items()),
    ]
    (folder / "peers.md").write_text("\n".join(lines) + "\n")


_NOTES = (
    "- Recall is that of 500 queries against exact answers; what ties with the tenth is right."
    " Headwater runs as it is when nothing is set, but for its workers in the second row. Each"
    " peer got the cheapest setting of a list that finds at least as much (or the best of the"
    " list, when none does).",
    "- Chroma's and PostgreSQL's servers use both cores; one process of Headwater does so only in"
    " part, as Python code runs in one thread at a time. `headwater serve --workers 2` gives it"
    " the second, for twice the memory.",
    "- *Until searchable*: from the first byte sent until a query finds what was stored last."
    " Headwater, pgvector and LanceDB compare everything that is not in an index yet, so they are"
    " searchable first and fast later. *Until indexed*: until everything is in the index and"
    " the machine rests. Searches are measured after that.",
    "- Every answer has ids, texts and scores of ten hits. The client of Headwater and Chroma is"
    " one and the same (raw HTTP on an event loop), with the requests Chroma's own client would"
    " send; that of pgvector is asyncpg. *Client* is the part of one core that it took while"
    " searching, which the contender did not have.",
    "- LanceDB has no server: there is no transport in its numbers, and no other process could"
    " read along.",
    "- pgvector had 2 GB of shared buffers and 1 GB for making the index, vectors stored in line"
    " (`PLAIN`), inner products (the vectors have unit length). Chroma's log level was `error`,"
    " because by default it writes several lines a request.",
)
