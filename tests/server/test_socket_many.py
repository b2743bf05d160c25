"""Many sockets on one process, a third of them not reading: nobody notices, nothing piles up."""

from __future__ import annotations

import json
import selectors
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from server.client import Client, Json
from server.running import Server, eventually
from server.socket_client import PONG, TEXT, BareSocket, frame_of

Serve = Callable[..., Server]

MB = 1_000_000
TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}


def subscribed(server: Server, library: str, *, reads: bool) -> BareSocket:
    bare = BareSocket(server.url, library, receive_buffer=None if reads else 4096, timeout=60)
    bare.json()
    bare.ask("subscribe", types="document.*", include=["document"])
    assert bare.json()["success"]
    return bare


def listen(readers: list[BareSocket], each: int) -> list[list[str]]:
    """Read all sockets at once until each has told `each` events; their cursors."""
    told: list[list[str]] = [[] for _ in readers]
    selector = selectors.DefaultSelector()
    for number, bare in enumerate(readers):
        selector.register(bare.socket, selectors.EVENT_READ, number)
    missing = len(readers)
    deadline = time.monotonic() + 240
    while missing and time.monotonic() < deadline:
        for key, _ in selector.select(1):
            bare, cursors = readers[key.data], told[key.data]
            begun = True
            while begun:
                opcode, payload = bare.frame()
                begun = bare.begun
                if opcode == TEXT:
                    cursors.append(json.loads(payload)["event"]["id"])
                    missing -= len(cursors) == each
                else:
                    bare.send(frame_of(payload, PONG))
    return told


def crowd(server: Server, count: int, writes: int, growth: int) -> None:
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library(**TWO_D)["id"]
        text = "x" * 30_000  # more than the buffers on the way take

        def put(number: int) -> Json:
            chunk = {"vector": [1, number], "text": text}
            return client.put(library, f"d{number % 10}", {"chunks": [chunk], "title": str(number)})

        put(0)
        sockets = [
            stack.enter_context(subscribed(server, library, reads=number % 3 != 0))
            for number in range(count)
        ]
        readers = sockets[1::3] + sockets[2::3]
        figures = client.http.get("/v1/websockets/statistics").json()
        assert figures["connections"] == figures["subscriptions"] == count
        before = server.rss_bytes()
        start = client.statistics()["head"]
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen, readers, writes)
            for number in range(1, writes + 1):
                put(number)
            told = listening.result(300)
        wanted = [
            event["id"]
            for event in client.all_events(library_id=library, types="document.*", after=start)
        ]
        assert len(wanted) == writes
        assert all(cursors == wanted for cursors in told)
        grown = server.rss_bytes() - before
        assert grown < growth, f"{grown / MB:.0f} MB more"
        figures = client.http.get("/v1/websockets/statistics").json()
        assert figures["waiting_to_read"] == len(sockets) - len(readers)
        assert figures["connections"] == count
        # Whoever was left behind goes on where it was, and misses nothing.
        late = sockets[0]
        heard = [late.json()["event"]["id"] for _ in range(writes)]
        assert heard == wanted
        for bare in sockets:
            bare.reset()
        eventually(
            lambda: client.http.get("/v1/websockets/statistics").json()["connections"] == 0,
            "all of them to be gone",
        )


def test_hundreds_of_sockets_a_third_not_reading(serve: Serve) -> None:
    crowd(serve(websocket__stall=600), 120, 120, 60 * MB)


@pytest.mark.soak
def test_a_thousand_sockets_a_third_not_reading(serve: Serve) -> None:
    crowd(serve(websocket__stall=600), 1000, 150, 300 * MB)
