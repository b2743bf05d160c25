"""A small HTTP client for the commands.

Every command but `serve` and `doctor` goes through here. Turns every way a request can end into a
result, a `Problem` (the server said no), `Unreachable` (nobody there) or `Cut` (the connection
ended early); must never hide which of them it was, because only some may be tried again.

    ClientError
    ├── Problem       an answer of the server: problem+json
    ├── Unreachable   no connection could be made
    ├── Cut           the connection broke, or a stream ended without its last line
    └── BadInput      a local file or argument is not what it should be
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Self
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import typer

from headwater import __version__

DEFAULT_URL = "http://127.0.0.1:8000"
READ_TIMEOUT = 60.0
"""Seconds without a byte before a connection counts as dead; feeds send a heartbeat every 15."""

Url = Annotated[str, typer.Option("--url", envvar="HEADWATER_URL", help="The server to speak to.")]
Params = Sequence[tuple[str, str]]


class ClientError(Exception):
    code = "client_error"
    retryable = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def reason(self) -> str:
        """The detail without the advice behind it."""
        return self.detail.partition("; ")[0]


class Problem(ClientError):
    """What the server refused, as it said it. `retry_after` is in seconds."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after


class Unreachable(ClientError):
    code = "no_server"
    retryable = True


class Cut(ClientError):
    code = "connection_lost"
    retryable = True


class BadInput(ClientError):
    code = "bad_input"


def segment(name: str) -> str:
    """A library name or document id as one path segment."""
    return quote(name, safe="")


class Client:
    """Requests to one server; a context manager."""

    def __init__(self, url: str, *, read_timeout: float = READ_TIMEOUT) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        # A proxy from the environment is for other hosts; the server is usually on this one.
        local = urlsplit(self.url).hostname in {"127.0.0.1", "localhost", "::1"}
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(read_timeout, connect=5.0),
            headers={"User-Agent": f"headwater/{__version__}"},
            trust_env=not local,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(
        self, method: str, path: str, *, json: Any = None, params: Params = ()
    ) -> dict[str, Any]:
        """Ask and return the JSON object answered. Raises `ClientError`."""
        content = None if json is None else msgspec.json.encode(json)
        with self.stream(
            method, path, content=content, params=params, content_type="application/json"
        ) as response:
            try:
                answer: dict[str, Any] = msgspec.json.decode(response.read(), type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise Problem(
                    "not_headwater",
                    f"{self.url} does not answer like a Headwater server; check --url",
                    status=response.status_code,
                ) from error
            return answer

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Params = (),
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/x-ndjson",
    ) -> Iterator[httpx.Response]:
        """Send a request and hold the answer open. Raises `ClientError`, also from the body."""
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = content_type
        try:
            with self._http.stream(
                method, path, content=content, params=list(params), headers=sent
            ) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                yield response
        except httpx.ConnectError as error:
            raise Unreachable(
                f"nothing answers at {self.url}; start a server with `headwater serve`, "
                "or name another one with --url or HEADWATER_URL"
            ) from error
        except (httpx.TransportError, httpx.StreamError) as error:
            reason = str(error) or type(error).__name__
            raise Cut(f"the connection to {self.url} was lost ({reason})") from error
        except httpx.InvalidURL as error:
            raise BadInput(f"{self.url!r} is not a URL ({error})") from error

    def pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Every item of a cursor-paged listing."""
        after: Params = ()
        while True:
            page = self.request("GET", path, params=after)
            yield from page[key]
            if not page.get("next"):
                return
            after = (("after", str(page["next"])),)


def lines(response: httpx.Response) -> Iterator[bytes]:
    """The body's lines without their ends, each as soon as it is whole; no unfinished last one.

    Splits at LF only: `httpx.Response.iter_lines` also splits at characters that JSON strings may
    hold, such as U+2028.
    """
    rest = b""
    for piece in response.iter_bytes():
        parts = (rest + piece).split(b"\n")
        rest = parts.pop()
        for part in parts:
            yield part.removesuffix(b"\r")


def messages(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The body's NDJSON objects. Raises `Cut` when a line is no JSON object."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    for line in lines(response):
        if line:
            try:
                message = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise Cut(f"the server sent a line that is not JSON ({error})") from error
            yield message


def stream_problem(message: Mapping[str, Any]) -> Problem:
    """The `Problem` in a stream's `{"type":"error","error":{…}}` line."""
    error = message.get("error") or {}
    return Problem(
        str(error.get("code", "internal")),
        str(error.get("detail", "the server ended the stream with an error")),
        retryable=bool(error.get("retryable", False)),
    )


def _problem(response: httpx.Response) -> Problem:
    """An error answer: problem+json, or whatever a proxy in between said."""
    try:
        body = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        body = {}
    status = response.status_code
    after = response.headers.get("Retry-After", "")
    return Problem(
        str(body.get("code") or f"http_{status}"),
        str(body.get("detail") or body.get("title") or response.reason_phrase or "no reason given"),
        status=status,
        retryable=bool(body.get("retryable", status in {429, 502, 503, 504})),
        retry_after=float(after) if after.isdigit() else 0.0,
    )
