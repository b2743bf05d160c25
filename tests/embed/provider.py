"""A fake provider over real HTTP: Cohere's `/v2/embed` and OpenAI's `/embeddings`.

A test scripts what happens to the next calls: `provider.script += [refuse(503), drop]`. What is not
scripted is answered rightly. Vectors follow from the texts alone, so a test can compute them.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from headwater.model import Vectors

KEY = "sk-very-secret-1234567890"


@dataclass(frozen=True)
class Seen:
    """One call, as it came in."""

    path: str
    authorization: str | None
    body: dict[str, Any]
    texts: list[str]


Step = Callable[["Handler", Seen], bool]
"""What happens to a call. True: that was all; false: go on to answer it."""


def vectors(texts: Sequence[str], dimension: int = 8) -> Vectors:
    """What the fake makes of texts, at unit length."""
    rows = [
        np.random.default_rng(zlib.crc32(text.encode())).normal(size=64)[:dimension]
        for text in texts
    ]
    found = np.array(rows, np.float32).reshape(len(texts), dimension)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def refuse(status: int, said: str = "no", **headers: str) -> Step:
    def step(handler: Handler, seen: Seen) -> bool:
        body = json.dumps({"error": {"message": said}}).encode()
        handler.answer(status, body, {k.replace("_", "-"): v for k, v in headers.items()})
        return True

    return step


def drop(handler: Handler, seen: Seen) -> bool:
    """Reset the connection without a word."""
    handler.reset()
    return True


def cut(handler: Handler, seen: Seen) -> bool:
    """Promise a long answer and stop in its middle."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.wfile.flush()
    handler.reset()
    return True


def say(body: bytes) -> Step:
    def step(handler: Handler, seen: Seen) -> bool:
        handler.answer(200, body, {})
        return True

    return step


def one_too_few(handler: Handler, seen: Seen) -> bool:
    handler.answer_with(seen, vectors(seen.texts, handler.fake.width(seen))[1:])
    return True


def one_too_wide(handler: Handler, seen: Seen) -> bool:
    handler.answer_with(seen, vectors(seen.texts, handler.fake.width(seen) + 1))
    return True


class Held:
    """Holds each call it meets until `let`."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.let = threading.Event()

    def __call__(self, handler: Handler, seen: Seen) -> bool:
        self.reached.release()
        assert self.let.wait(20)
        return False


class FakeProvider:
    """Listens on a free port from `start` to `stop`; the port stays its own in between."""

    def __init__(self, dimension: int = 8) -> None:
        self.dimension = dimension
        self.key: str | None = None
        self.max_inputs: int | None = None
        self.too_many = 413
        self.knows_base64 = True
        self.narrows = True
        self.models: set[str] | None = None
        self.documents_step: Step | None = None
        self.every_step: Step | None = None
        self.script: deque[Step] = deque()
        self.calls: list[Seen] = []
        self.port = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._server.fake = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Die: nothing listens any more and what was open is cut."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()
        self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call.texts]

    def width(self, seen: Seen) -> int:
        asked = seen.body.get("dimensions") or seen.body.get("output_dimension")
        return int(asked) if asked and self.narrows else self.dimension


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    fake: FakeProvider

    def __init__(self, *args: Any) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.open):
            _reset(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def fake(self) -> FakeProvider:
        return self.server.fake

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        texts = body["texts"] if "texts" in body else body["input"]
        seen = Seen(self.path, self.headers["authorization"], body, texts)
        fake = self.fake
        fake.calls.append(seen)
        if fake.every_step is not None and fake.every_step(self, seen):
            return
        step = fake.script.popleft() if fake.script else None
        if step is None and body.get("input_type", "search_document") == "search_document":
            step = fake.documents_step
        if step is not None and step(self, seen):
            return
        refusal = self._refusal(seen)
        if refusal is not None:
            refusal(self, seen)
            return
        self.answer_with(seen, vectors(texts, fake.width(seen)))

    def _refusal(self, seen: Seen) -> Step | None:
        fake = self.fake
        if fake.key is not None and seen.authorization != f"Bearer {fake.key}":
            return refuse(401, f"wrong key {seen.authorization}")
        if fake.models is not None and seen.body["model"] not in fake.models:
            return refuse(404, f"no model {seen.body['model']}")
        if fake.max_inputs is not None and len(seen.texts) > fake.max_inputs:
            return refuse(fake.too_many, f"at most {fake.max_inputs} inputs")
        if not fake.knows_base64 and "encoding_format" in seen.body:
            return refuse(400, "unknown parameter encoding_format")
        if any(not text or text == "poison" for text in seen.texts):
            return refuse(400, "a text is not valid")
        return None

    def answer_with(self, seen: Seen, found: Vectors) -> None:
        # Longer than one: length is not the provider's business.
        rows = (found * 3).astype("<f4")
        if seen.path.endswith("/v2/embed"):
            answer: dict[str, Any] = {
                "embeddings": {"float": rows.tolist()},
                "meta": {"billed_units": {"input_tokens": 2 * len(seen.texts)}},
            }
        else:
            plain = seen.body.get("encoding_format") != "base64"
            data = [
                {
                    "index": index,
                    "embedding": row.tolist()
                    if plain
                    else base64.b64encode(row.tobytes()).decode(),
                }
                for index, row in enumerate(rows)
            ]
            # In another order than asked: `index` says which is which.
            answer = {"data": data[::-1], "usage": {"total_tokens": 2 * len(seen.texts)}}
        self.answer(200, json.dumps(answer).encode(), {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        _reset(self.connection)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _reset(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
