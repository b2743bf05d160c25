"""What one request may ask for."""

from __future__ import annotations

from headwater.settings.section import MiB, Seconds, Section, count, in_bytes, in_seconds


class LimitSettings(Section):
    """What one request may ask for."""

    body_bytes: int = in_bytes(32 * MiB, "Largest JSON body of a request that is no stream")
    line_bytes: int = in_bytes(4 * MiB, "Longest line of a stream")
    stream_lines: int | None = count(None, "Lines in one stream; unlimited when not set.")
    streams: int = count(256, "Document streams in and out at once, per process.")
    batch_documents: int = count(1_000, "Documents in one batch request.")
    batch_queries: int = count(100, "Queries in one batch search.")
    page_items: int = count(1_000, "Items in one page of a listing.")
    k: int = count(10_000, "Results of one search.")
    answer_bytes: int = in_bytes(
        128 * MiB,
        "Passages and vectors in the answer to a search, or to a batch of them; a stream may have "
        "more",
    )
    query_chars: int = count(10_000, "Length of a text query, in characters.")
    dimension: int = count(4_096, "Dimension of a library.")
    chunks_per_document: int = count(10_000, "Chunks of one document.")
    wait: Seconds = in_seconds(60, "Longest long-poll")
