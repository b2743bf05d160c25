"""A document stream that runs beside a test and remembers what it was promised."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import Self

from server.client import Json, ndjson
from server.conversation import Conversation


class Pump:
    """Streams `documents` (each with an id) in one thread and reads the answer in another.

    `promised` are the ids of lines acknowledged by a result or a checkpoint so far. When the
    connection breaks, `cut` is true and both threads end; nothing is raised. With `hold` the body
    stays open after the last document, until `finish`.
    """

    def __init__(
        self,
        url: str,
        library: str,
        documents: Iterable[Json],
        *,
        response: str = "results",
        piece: int = 50,
        hold: bool = False,
    ) -> None:
        path = f"/v1/libraries/{library}/documents/stream?response={response}"
        self.talk = Conversation(url, "POST", path, chunked=True, timeout=60)
        self.sent: dict[str, Json] = {}
        self.promised: set[str] = set()
        self.records: list[Json] = []
        self.summary: Json | None = None
        self.cut = False
        self._ids: list[str] = []
        self._heard = threading.Condition()
        self._piece = piece
        self._hold = hold
        self._documents = iter(documents)
        self._stop = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._sender.start()
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()

    def finish(self) -> None:
        """End the body after the piece that is under way; the summary is read by `join`."""
        self._stop.set()

    def wait_promised(self, count: int, seconds: float = 30.0) -> None:
        """Return when that many documents are acknowledged."""
        with self._heard:
            came = self._heard.wait_for(
                lambda: len(self.promised) >= count or self.cut, timeout=seconds
            )
        assert came, f"waited {seconds} s in vain for {count} acknowledgements"
        assert len(self.promised) >= count, f"cut off before {count} acknowledgements"

    def join(self) -> None:
        for thread in (self._sender, self._reader):
            thread.join(90)
            assert not thread.is_alive(), "the stream hangs"
        self.talk.close()

    def _send(self) -> None:
        try:
            while not self._stop.is_set():
                piece = list(itertools.islice(self._documents, self._piece))
                if not piece:
                    if self._hold:
                        self._stop.wait()
                    break
                for document in piece:
                    self.sent[document["id"]] = document
                    self._ids.append(document["id"])
                self.talk.send(ndjson(piece))
            self.talk.end()
        except OSError:
            self.cut = True

    def _read(self) -> None:
        failed: set[int] = set()
        through = 0
        try:
            for record in self.talk.records():
                self.records.append(record)
                if record["type"] == "result":
                    if record["status"] == "failed":
                        failed.add(record["line"])
                    else:
                        self.promised.add(record["id"])
                elif record["type"] == "checkpoint":
                    lines = range(through + 1, record["durable_through_line"] + 1)
                    self.promised.update(self._ids[n - 1] for n in lines if n not in failed)
                    through = record["durable_through_line"]
                elif record["type"] == "summary":
                    self.summary = record
                with self._heard:
                    self._heard.notify_all()
        except OSError:
            self.cut = True
        with self._heard:
            self._heard.notify_all()
