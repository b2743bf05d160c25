"""A stream of server-sent events over as many connections as it takes.

`tail` and `watch` are made of it. It keeps the cursor of the last event that its caller has taken
and goes on from there after every break, with longer and longer pauses while nobody answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from headwater.cli import output
from headwater.cli.backoff import Backoff
from headwater.cli.client import Client, ClientError, Cut, Problem, Unreachable, lines
from headwater.cli.sse import ServerEvent, parse

_CONTROL = {"ready", "progress", "goodbye"}


class EventFeed:
    """`cursor` is where it would go on; None before anything was heard."""

    def __init__(
        self,
        client: Client,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        after: str | None = None,
        backoff: Backoff | None = None,
        say: Callable[[str], None] = output.note,
    ) -> None:
        self.cursor: str | None = None
        self._client = client
        self._method = method
        self._path = path
        self._params = list(params)
        self._body = body
        self._after = after
        self._backoff = backoff or Backoff(first=1.0, cap=30.0)
        self._say = say
        self._was_ready = False

    def all(self) -> Iterator[ServerEvent]:
        """Events but those about the stream itself, in order, for ever.

        Raises what cannot be mended by connecting again; `gives_up` may put it in other words.
        """
        while True:
            error: ClientError = Cut("the event stream ended")
            try:
                for event in self._connection():
                    if event.type not in _CONTROL:
                        yield event
                    if event.id:  # only once the caller has taken it
                        self.cursor = event.id
            except (Cut, Unreachable, Problem) as failed:
                error = failed
            final = self.gives_up(error)
            if not final.retryable or (isinstance(final, Unreachable) and not self._was_ready):
                raise final
            if not isinstance(error, Goodbye) or error.kind != "max_age":
                self._say(f"{error.reason}; reconnecting")
            self._backoff.wait(error.retry_after if isinstance(error, Problem) else 0.0)

    def gives_up(self, error: ClientError) -> ClientError:
        """What to raise for `error`; it is raised when it is not retryable."""
        return error

    def connected(self) -> None:
        """A connection has been made; what was begun on the one before will not be ended."""

    def ready(self, cursor: str) -> None:
        """The server says that nothing after `cursor` will be missed."""
        # Breaking off before the first event must not lose what comes in between.
        self.cursor = self.cursor or cursor

    def _connection(self) -> Iterator[ServerEvent]:
        params, headers = list(self._params), {"Accept": "text/event-stream"}
        if self.cursor is not None:
            headers["Last-Event-ID"] = self.cursor
        elif self._after is not None:
            params.append(("after", self._after))
        with self._client.stream(
            self._method,
            self._path,
            content=self._body,
            params=params,
            headers=headers,
            content_type="application/json",
        ) as response:
            self.connected()
            for event in parse(lines(response)):
                if event.retry_ms is not None:
                    self._backoff.first = event.retry_ms / 1000
                match event.type:
                    case "":
                        if event.id:
                            self.cursor = event.id
                    case "ready":
                        self._was_ready = True
                        self._backoff.reset()
                        self.ready(msgspec.json.decode(event.data)["cursor"])
                        yield event
                    case "error":
                        raise _refused(msgspec.json.decode(event.data))
                    case "goodbye":
                        raise Goodbye(str(msgspec.json.decode(event.data).get("reason", "")))
                    case _:
                        yield event


def _refused(said: dict[str, Any]) -> Problem:
    return Problem(
        str(said.get("code", "internal")),
        str(said.get("detail", "the server ended the stream with an error")),
        retryable=bool(said.get("retryable", False)),
    )


class Goodbye(Cut):
    """The server has ended the stream in good order; `kind` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server said goodbye ({reason})" if reason else "goodbye")
        self.kind = reason
