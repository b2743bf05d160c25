"""An HTTP server over real sockets that answers what a test tells it to, and can cut the line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


class CutConnection(Exception):
    """Raised by a handler in mid-answer: close the socket without the last chunk."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines() if line]


@dataclass
class Answer:
    """Headers and a body in pieces, each sent as a chunk of its own."""

    pieces: Iterator[bytes]
    status: int = 200
    content_type: str = "application/x-ndjson"
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Answer]


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(iter([json.dumps(value).encode()]), status, "application/json")


def as_problem(code: str, detail: str, status: int, **fields: Any) -> Answer:
    value = {"code": code, "detail": detail, "status": status, **fields}
    return Answer(iter([json.dumps(value).encode()]), status, "application/problem+json")


def as_ndjson(*messages: Any) -> Answer:
    return Answer(encoded(iter(messages)))


def encoded(messages: Iterator[Any]) -> Iterator[bytes]:
    for message in messages:
        yield json.dumps(message, ensure_ascii=False).encode() + b"\n"


class FakeServer:
    """Routes by method and path; remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._routes: dict[tuple[str, str], Handler] = {}
        outer = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                outer._answer(self)

            do_GET = do_POST = do_DELETE = do  # noqa: N815  # http.server's names

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def on(self, method: str, path: str, handler: Handler) -> None:
        self._routes[method, path] = handler

    def seen(self, method: str, path: str) -> list[Request]:
        return [made for made in self.requests if (made.method, made.path) == (method, path)]

    def _answer(self, connection: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(connection.path)
        length = int(connection.headers.get("Content-Length", 0))
        request = Request(
            connection.command,
            unquote(parts.path),
            dict(parse_qsl(parts.query)),
            {name.lower(): value for name, value in connection.headers.items()},
            connection.rfile.read(length),
        )
        self.requests.append(request)
        handler = self._routes.get((request.method, request.path))
        answer = handler(request) if handler else as_problem("not_found", "no such path", 404)
        connection.send_response(answer.status)
        connection.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            connection.send_header(name, value)
        connection.send_header("Transfer-Encoding", "chunked")
        connection.end_headers()
        try:
            for piece in answer.pieces:
                connection.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                connection.wfile.flush()
            connection.wfile.write(b"0\r\n\r\n")
        except CutConnection:
            connection.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            connection.close_connection = True


class FakeLibrary:
    """`documents/stream` of one library, in groups of `group` lines.

    `cuts` holds, for each request to come, the line after whose result the connection breaks.
    """

    def __init__(self, server: FakeServer, name: str = "notes", group: int = 2) -> None:
        self.documents: dict[str, Any] = {}
        self.cuts: list[int] = []
        self._group = group
        self.stream = f"/v1/libraries/{name}/documents/stream"
        library = {"id": "0190", "name": name, "documents": 0, "embedder": "static"}
        server.on("GET", f"/v1/libraries/{name}", lambda request: as_json(library))
        server.on("POST", self.stream, self._take)

    def _take(self, request: Request) -> Answer:
        cut = self.cuts.pop(0) if self.cuts else None
        return Answer(encoded(self._results(request.body.splitlines(), cut)))

    def _results(self, lines: list[bytes], cut: int | None) -> Iterator[Any]:
        for number, line in enumerate(lines, 1):
            yield self._store(number, line)
            if number == cut:
                raise CutConnection
            if number % self._group == 0:
                yield {"type": "checkpoint", "durable_through_line": number, "cursor": "logid1.1"}
        yield {"type": "summary", "received": len(lines), "cursor": "logid1.1"}

    def _store(self, number: int, line: bytes) -> Any:
        try:
            document = json.loads(line)
        except ValueError:
            error = {"code": "invalid_json", "detail": "not JSON", "retryable": False}
            return {
                "type": "result",
                "line": number,
                "id": None,
                "status": "failed",
                "error": error,
            }
        known = self.documents.get(document["id"])
        status = "created" if known is None else "unchanged" if known == document else "updated"
        self.documents[document["id"]] = document
        return {"type": "result", "line": number, "id": document["id"], "status": status}
