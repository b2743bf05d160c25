"""Server-sent events, read from a response (WHATWG HTML, section 9.2.6).

`tail` uses it. Lenient as the standard asks: unknown fields are skipped, an unfinished last event
is dropped. The caller keeps the last id; nothing here reconnects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One block of the stream. `type` is empty for a block without data (only `retry:` or an id).

    `id` is None when the block had none; `retry_ms` likewise.
    """

    type: str
    data: str
    id: str | None = None
    retry_ms: int | None = None


def parse(lines: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Events out of lines without their ends."""
    kind, data = "", list[str]()
    event_id: str | None = None
    retry_ms: int | None = None
    for line in lines:
        if not line:
            if data or event_id is not None or retry_ms is not None:
                yield ServerEvent(
                    (kind or "message") if data else "", "\n".join(data), event_id, retry_ms
                )
            kind, data, event_id, retry_ms = "", [], None, None
            continue
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                kind = value
            case "data":
                data.append(value)
            case "id" if "\0" not in value:
                event_id = value
            case "retry" if value.isascii() and value.isdigit():
                retry_ms = int(value)
