"""Connections that stay open: event streams, WebSockets, sessions."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from headwater.settings.section import (
    KiB,
    MiB,
    Seconds,
    Section,
    count,
    every,
    in_bytes,
    in_milliseconds,
    in_seconds,
)


class FeedSettings(Section):
    """Event streams."""

    heartbeat: Seconds = every(15, "Comment sent on a quiet event stream")
    progress: Seconds = every(
        5, "How often a filtered stream with nothing to tell sends its cursor"
    )
    max_age: Seconds = in_seconds(timedelta(hours=1), "An event stream says goodbye at this age")
    retry_ms: int = in_milliseconds(1_000, "Reconnection delay told to event streams", least=0)
    stall: Seconds = in_seconds(60, "A reader that takes nothing for this long is disconnected")
    write_bytes: int = in_bytes(256 * KiB, "Largest piece handed to a socket at once")
    page_changes: int = count(
        500, "Changes read from the store at once by a reader behind the ring."
    )
    max_subscribers: int = count(10_000, "Event streams open at once in one process.")


class WebSocketSettings(Section):
    """WebSockets: what one of them may ask for, and how many there may be."""

    max_sockets: int = count(10_000, "WebSockets open at once in one process.")
    origins: str = Field(
        "",
        description="Web pages of other sites that may open a WebSocket, separated by commas, `*` "
        "for any characters: `https://*.example.org`. Pages of the server's own host and of this "
        "machine always may, and so may what is no page.",
    )
    message_bytes: int = in_bytes(4 * MiB, "Largest message a client may send")
    unfinished_bytes: int = in_bytes(
        256 * MiB,
        "Memory for messages that have begun to arrive, of all sockets of a process",
        least=MiB,
    )
    part_bytes: int = in_bytes(
        256 * KiB, "Size from which a search's results are sent in several parts"
    )
    in_flight: int = count(
        32, "Requests of one socket worked on at once; with more it is not read.", most=10_000
    )
    requests_per_second: float = Field(
        2_000, gt=0, description="Requests a second that one socket may send in the long run."
    )
    burst: int = count(5_000, "Requests it may send at once after it has been quiet.")
    subscriptions: int = count(100, "Subscriptions of one socket.")
    watches: int = count(4_000, "Live queries of one socket.")
    max_unacked: int = count(10_000, "Largest `max_unacked` a subscription may ask for, in events.")
    ping_every: Seconds = every(20, "How often a socket is pinged")
    ping_timeout: Seconds = in_seconds(
        20, "How late an answer to a ping may be before the socket is closed"
    )
    stall: Seconds = in_seconds(60, "A client that reads nothing for this long is disconnected")


class SessionSettings(Section):
    """Shared search sessions: how many, how large, and how soon somebody counts as gone."""

    most: int = count(1_000, "Sessions there may be.")
    people: int = count(100, "People in one session at once.", most=1_000)
    pins: int = count(200, "Pins in one session.")
    notes: int = count(500, "Notes in one session.")
    note_chars: int = count(4_000, "Length of a note, or of a pin's text, in characters.")
    k: int = count(100, "Results of a session's query.", most=1_000)
    message_bytes: int = in_bytes(
        4 * KiB, "Largest message that one person passes to the others", least=64, most=32 * KiB
    )
    messages_per_second: float = Field(
        20, gt=0, description="Messages a second that one person may pass to the others."
    )
    requests_per_second: float = Field(
        50, gt=0, description="Requests a second that one person may send."
    )
    buffer_bytes: int = in_bytes(
        MiB,
        "Events kept for somebody who reads slowly, before the whole state is sent instead",
        least=64 * KiB,
    )
    ping_every: Seconds = every(2, "How often a person's socket is pinged")
    ping_timeout: Seconds = in_seconds(
        5, "How late an answer to a ping may be before that person has left"
    )
    lease: Seconds = every(
        10, "How long a server process may be silent before its people have left"
    )
    reap_every: Seconds = every(1, "How often the people of processes that ended are looked for")
    keep: Seconds = in_seconds(
        timedelta(days=30), "A session nobody has been in for this long is deleted"
    )
