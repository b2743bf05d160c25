"""A small client for tests: HTTP by httpx, server-sent events parsed by hand.

It hides only what every test would repeat; what a test is about, it asks for itself.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import httpx

Json = dict[str, Any]
PATIENCE_SECONDS = 120.0
CONTROL = frozenset({"ready", "progress", "reset", "goodbye"})

_numbers = itertools.count(1)


class Sent(NamedTuple):
    """One server-sent event, or a comment (`event` is then ":")."""

    event: str
    id: str | None
    data: Any
    retry_ms: int | None = None


class SseParser:
    """Bytes in, events out (WHATWG HTML, section 9.2.6), as far as this server speaks it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Sent]:
        self._rest += piece
        *frames, self._rest = self._rest.split(b"\n\n")
        for frame in frames:
            event, id_, retry, data = "message", None, None, []
            for line in frame.decode().split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "":
                    event, data = ":", [json.dumps(value)]
                elif name == "event":
                    event = value
                elif name == "id":
                    id_ = value
                elif name == "retry":
                    retry = int(value)
                elif name == "data":
                    data.append(value)
                else:
                    raise AssertionError(f"unknown field in frame {frame!r}")
            if data:  # without, it is no event
                yield Sent(event, id_, json.loads("\n".join(data)), retry)


class Events:
    """An open event stream; iterate for `Sent`s, comments left out unless asked for.

    `last_id` is what a browser would send back as `Last-Event-ID`.
    """

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        params: Mapping[str, Any],
        last_id: str | None,
        comments: bool,
    ) -> None:
        headers = {"last-event-id": last_id} if last_id else {}
        # A connection of its own: a pool shared by threads loses sight of one that is dropped.
        self._http = httpx.Client(
            base_url=http.base_url, timeout=http.timeout, trust_env=False, verify=False
        )
        request = self._http.build_request("GET", path, params=params, headers=headers)
        self.response = self._http.send(request, stream=True)
        self.last_id = last_id
        self.ended = False
        self._comments = comments
        self._parser = SseParser()
        self._ready: list[Sent] = []
        if self.response.status_code != 200:
            self.response.read()
            self.close()
            self.response.raise_for_status()
        self._pieces = self.response.iter_raw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Sent]:
        return self

    def __next__(self) -> Sent:
        return self._read(math.inf)

    def _read(self, deadline: float) -> Sent:
        while not self._ready:
            assert time.monotonic() < deadline, "waited in vain for an event"
            try:
                piece = next(self._pieces)
            except StopIteration:
                self.ended = True
                raise
            self._ready = [
                sent for sent in self._parser.feed(piece) if self._comments or sent.event != ":"
            ]
        sent = self._ready.pop(0)
        if sent.id is not None:
            self.last_id = sent.id
        return sent

    def take(self, count: int) -> list[Json]:
        """The data of the next `count` events that are no control events.

        The stream goes on saying that it is alive, so one that never comes is given up here.
        """
        taken: list[Json] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(taken) < count:
            sent = self._read(deadline)
            if sent.event not in CONTROL and sent.event != ":":
                taken.append(sent.data)
        return taken

    def until(self, event: str) -> Sent:
        """The next event of that name; those before it are dropped."""
        for sent in self:
            if sent.event == event:
                return sent
        raise AssertionError(f"the stream ended before a {event!r}")

    def close(self) -> None:
        self.response.close()
        self._http.close()


class Client:
    """Talks to one server. `http` is there for whatever has no method here."""

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def create_library(self, name: str | None = None, **fields: Any) -> Json:
        """A new library; without a name it gets one that no other test has."""
        body = {"name": name or f"library-{next(_numbers)}", **fields}
        return answer(self.http.post("/v1/libraries", json=body))

    def stream_raw(
        self,
        library: str,
        body: bytes | Iterable[bytes],
        headers: Mapping[str, str] = {},
        **params: Any,
    ) -> list[Json]:
        """Send an NDJSON body as it is; every record of the answer."""
        response = self.http.post(
            f"/v1/libraries/{library}/documents/stream",
            content=body,
            params=params,
            headers={"content-type": "application/x-ndjson", **headers},
        )
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def stream(self, library: str, documents: Iterable[Json], **params: Any) -> list[Json]:
        """Stream documents in; every record of the answer."""
        return self.stream_raw(library, ndjson(documents), **params)

    def put(self, library: str, id: str, document: Json, **params: Any) -> Json:
        path = f"/v1/libraries/{library}/documents/{id}"
        return answer(self.http.put(path, json=document, params=params))

    def get(self, library: str, id: str, **params: Any) -> Json | None:
        """The document, or None when there is none."""
        response = self.http.get(f"/v1/libraries/{library}/documents/{id}", params=params)
        return None if response.status_code == 404 else answer(response)

    def delete(self, library: str, id: str) -> Json:
        return answer(self.http.delete(f"/v1/libraries/{library}/documents/{id}"))

    def search(
        self,
        library: str,
        query: str | None = None,
        *,
        vector: Sequence[float] | None = None,
        **fields: Any,
    ) -> Json:
        wanted = {"query": query} if vector is None else {"vector": list(vector)}
        return answer(self.http.post(f"/v1/libraries/{library}/search", json=wanted | fields))

    def export(self, library: str, **params: Any) -> list[Json]:
        """Every record of an export that does not follow."""
        path = f"/v1/libraries/{library}/documents/stream"
        response = self.http.get(path, params=params)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def documents(self, library: str, **params: Any) -> dict[str, Json]:
        """All documents by id, from an export."""
        records = self.export(library, **params)
        assert records[-1]["type"] == "summary", records[-1]
        return {record["id"]: record for record in records if record["type"] == "document"}

    def events(
        self,
        *,
        library: str | None = None,
        last_id: str | None = None,
        comments: bool = False,
        **params: Any,
    ) -> Events:
        """Open the event stream; of one library's own route when `library` is given."""
        path = f"/v1/libraries/{library}/events/stream" if library else "/v1/events/stream"
        return Events(self.http, path, params, last_id, comments)

    def page(self, **params: Any) -> Json:
        return answer(self.http.get("/v1/events", params=params))

    def all_events(self, **params: Any) -> list[Json]:
        """The log from `after` (default: beginning) to its head, by pages."""
        told: list[Json] = []
        while True:
            page = self.page(**{"limit": 1000, **params})
            told += page["events"]
            if not page["events"]:
                return told
            params["after"] = page["cursor"]

    def statistics(self) -> Json:
        return answer(self.http.get("/v1/events/statistics"))


def ndjson(documents: Iterable[Json]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def answer(response: httpx.Response) -> Json:
    """The JSON of a good answer; fails with the problem otherwise."""
    assert response.is_success, f"{response.request.method} {response.url}: {response.text}"
    body = response.json()
    assert isinstance(body, dict)
    return body
