"""Live queries over real sockets: server-sent events heard into a list of hits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import httpx
from live.reader import ShownHits
from server.client import Json, Sent, SseParser

TWO_D: Json = {"embedder": "none", "dimension": 2}


def at(angle: float) -> list[float]:
    return [math.cos(angle), math.sin(angle)]


def document(angle: float, **metadata: Any) -> Json:
    return {"chunks": [{"vector": at(angle), "text": f"at {angle:.3f}"}], "metadata": metadata}


class LiveSearch:
    """An open live search. `hear` takes the next event, comments left out.

    `last_id` is what a browser would send back as `Last-Event-ID`.
    """

    def __init__(
        self,
        url: str,
        library: str,
        query: Mapping[str, Any],
        *,
        last_id: str | None = None,
        method: str = "POST",
        shown: ShownHits | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=False)
        headers = {"last-event-id": last_id} if last_id else {}
        path = f"/v1/libraries/{library}/search/live"
        request = (
            self.http.build_request("GET", path, params=query, headers=headers)
            if method == "GET"
            else self.http.build_request("POST", path, json=query, headers=headers)
        )
        self.response = self.http.send(request, stream=True)
        self.shown = shown or ShownHits(bool(query.get("group_by")))
        self.last_id = last_id
        self._parser = SseParser()
        self._ready: list[Sent] = []
        self._pieces = self.response.iter_raw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self) -> Sent:
        """The next event. Raises `StopIteration` when the stream has ended."""
        while not self._ready:
            piece = next(self._pieces)
            self._ready = [
                sent
                for sent in self._parser.feed(piece)
                if sent.event != ":" and sent.data is not None
            ]
        sent = self._ready.pop(0)
        if sent.id is not None:
            self.last_id = sent.id
        if sent.event not in ("error", "goodbye"):
            self.shown.hear(sent.event, sent.data)
        return sent

    def until(self, event: str) -> Sent:
        while True:
            sent = self.hear()
            if sent.event == event:
                return sent

    def until_at(self, cursor: str) -> None:
        """Hear until everything up to that cursor has been told."""
        wanted = int(cursor.split(".")[1])
        while self.shown.cursor is None or int(self.shown.cursor.split(".")[1]) < wanted:
            self.hear()

    def close(self) -> None:
        self.response.close()
        self.http.close()
