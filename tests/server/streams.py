"""What tests read from the answer to a document stream."""

from __future__ import annotations

from server.client import Json

SUMMARY = {
    "type",
    "received",
    "created",
    "updated",
    "unchanged",
    "failed",
    "batch_id",
    "cursor",
    "searchable",
    "took_ms",
}


def results(records: list[Json]) -> list[Json]:
    return [record for record in records if record["type"] == "result"]


def counts(summary: Json) -> tuple[int, int, int, int, int]:
    assert summary["type"] == "summary", summary
    return (
        summary["received"],
        summary["created"],
        summary["updated"],
        summary["unchanged"],
        summary["failed"],
    )


def failures(records: list[Json]) -> dict[int, str]:
    return {
        record["line"]: record["error"]["code"]
        for record in results(records)
        if record["status"] == "failed"
    }
