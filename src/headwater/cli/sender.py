"""Sends records into a library through `documents/stream`, and survives a cut connection.

`import` and `demo` use it. Records go out in requests of bounded size, one after another, because
an HTTP client that reads only after it has sent everything could otherwise not see how far it is.
After a cut it goes on behind the last checkpoint; records carry ids, so what was stored already
comes back as `unchanged`. Must never count a record before the server called it durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from headwater.cli.backoff import Backoff
from headwater.cli.client import (
    Client,
    ClientError,
    Cut,
    Problem,
    messages,
    segment,
    stream_problem,
)
from headwater.cli.records import Item, Pause, Record, Unreadable

REQUEST_LINES = 5_000
REQUEST_BYTES = 8 << 20
SHOWN_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Failure:
    place: str
    code: str
    detail: str


@dataclass(slots=True)
class Tally:
    """What became of the records so far. `failures` holds the first few of `failed`."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    reconnects: int = 0
    last_place: str | None = None
    done: int = 0

    @property
    def stored(self) -> int:
        return self.created + self.updated + self.unchanged

    @property
    def settled(self) -> int:
        return self.stored + self.failed

    def fail(self, place: str, code: str, detail: str) -> None:
        self.failed += 1
        if len(self.failures) < SHOWN_FAILURES:
            self.failures.append(Failure(place, code, detail))


class Sender:
    """One import. `retry_for` is how long to try again without any progress, in seconds."""

    def __init__(
        self,
        client: Client,
        library: str,
        *,
        retry_for: float = 60.0,
        on_progress: Callable[[Tally], None] = lambda tally: None,
        on_retry: Callable[[ClientError, float], None] = lambda error, seconds: None,
        backoff: Backoff | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._path = f"/v1/libraries/{segment(library)}/documents/stream"
        self._retry_for = retry_for
        self._on_progress = on_progress
        self._on_retry = on_retry
        self._backoff = backoff or Backoff()
        self._monotonic = monotonic

    def send(self, items: Iterable[Item]) -> Tally:
        """Send everything and return the tally. Raises `ClientError` when it cannot go on."""
        batch: list[Record] = []
        size = 0
        for item in items:
            match item:
                case Record():
                    if batch and size + len(item.line) > REQUEST_BYTES:
                        self._deliver(batch)
                        batch, size = [], 0
                    batch.append(item)
                    size += len(item.line) + 1
                    if len(batch) == REQUEST_LINES:
                        self._deliver(batch)
                        batch, size = [], 0
                case Unreadable():
                    self.tally.fail(item.place, item.code, item.detail)
                case Pause():
                    self._deliver(batch)
                    batch, size = [], 0
        self._deliver(batch)
        return self.tally

    def _deliver(self, batch: list[Record]) -> None:
        """Send `batch` until all of it is settled, over as many requests as that takes."""
        progressed_at = self._monotonic()
        while batch:
            settled, error = self._request(batch)
            batch = batch[settled:]
            if settled:
                progressed_at = self._monotonic()
                self._backoff.reset()
            if error is None:
                continue
            # The server's own limit of lines in a stream may be below ours: go on in a new one.
            if error.code == "too_many_lines" and settled:
                continue
            waited = self._monotonic() - progressed_at
            if not error.retryable or waited >= self._retry_for:
                raise error
            self.tally.reconnects += 1
            pause = self._backoff.next(error.retry_after if isinstance(error, Problem) else 0.0)
            self._on_retry(error, pause)
            self._backoff.sleep(pause)

    def _request(self, batch: list[Record]) -> tuple[int, ClientError | None]:
        """One request: how many of `batch` are settled now, and why not all of them."""
        body = b"\n".join(record.line for record in batch) + b"\n"
        held: list[dict[str, Any]] = []
        settled = 0
        try:
            with self._client.stream("POST", self._path, content=body) as response:
                for message in messages(response):
                    match message.get("type"):
                        case "result":
                            held.append(message)
                        case "checkpoint":
                            through = min(int(message["durable_through_line"]), len(batch))
                            held = self._settle(batch, held, through)
                            settled = max(settled, through)
                        case "summary":
                            self._settle(batch, held, len(batch))
                            return len(batch), None
                        case "error":
                            return settled, stream_problem(message)
        except ClientError as error:
            return settled, error
        return settled, Cut("the server's answer ended early")

    def _settle(
        self, batch: list[Record], held: list[dict[str, Any]], through: int
    ) -> list[dict[str, Any]]:
        """Count the results up to line `through`; return those behind it."""
        tally = self.tally
        later: list[dict[str, Any]] = []
        for result in held:
            line = int(result["line"])
            if line > through:
                later.append(result)
                continue
            match result["status"]:
                case "created":
                    tally.created += 1
                case "updated":
                    tally.updated += 1
                case "unchanged":
                    tally.unchanged += 1
                case _:
                    error = result.get("error") or {}
                    tally.fail(
                        batch[line - 1].place,
                        str(error.get("code", "failed")),
                        str(error.get("detail", "")),
                    )
        if through:
            tally.last_place = batch[through - 1].place
            tally.done = batch[through - 1].done
            self._on_progress(tally)
        return later
