"""Every error is a problem of RFC 9457, whoever finds it, and has a request id."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import httpx
import pytest
from server.client import Client
from server.running import Server

from headwater import __version__

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
LIBRARY = "/v1/libraries/{library}"

# method, path, body, status, code: every kind of refusal, on every kind of route.
REFUSALS: list[tuple[str, str, bytes | None, int, str]] = [
    ("GET", "/", None, 404, "no_such_route"),
    ("GET", "/v1", None, 404, "no_such_route"),
    ("GET", "/v2/libraries", None, 404, "no_such_route"),
    ("GET", "/v1/libraries/", None, 404, "no_such_route"),
    ("GET", f"{LIBRARY}/nothing", None, 404, "no_such_route"),
    ("POST", "/health", None, 405, "method_not_allowed"),
    ("PUT", "/v1/libraries", b"{}", 405, "method_not_allowed"),
    ("DELETE", "/v1/libraries", None, 405, "method_not_allowed"),
    ("DELETE", f"{LIBRARY}/documents", None, 405, "method_not_allowed"),
    ("GET", f"{LIBRARY}/search", None, 405, "method_not_allowed"),
    ("POST", "/v1/events", None, 405, "method_not_allowed"),
    ("TRACE", f"{LIBRARY}/documents/a", None, 405, "method_not_allowed"),
    ("GET", "/v1/libraries/none", None, 404, "library_not_found"),
    ("GET", f"{LIBRARY}/documents/none", None, 404, "document_not_found"),
    ("POST", f"{LIBRARY}/documents", b"", 400, "invalid_json"),
    ("POST", f"{LIBRARY}/documents", b"\xff", 400, "invalid_json"),
    ("POST", f"{LIBRARY}/documents", b"{" * 1_000_000, 400, "invalid_json"),
    ("POST", f"{LIBRARY}/documents", b"[]", 422, "invalid_document"),
    ("POST", f"{LIBRARY}/documents", b'{"text":"a","x":1}', 422, "unknown_field"),
    ("POST", f"{LIBRARY}/documents", b'{"chunks":[{"vector":[1]}]}', 422, "dimension_mismatch"),
    ("POST", f"{LIBRARY}/documents", b'{"id":"known","text":"b"}', 409, "document_exists"),
    ("POST", "/v1/libraries", b'{"name":"a/b"}', 422, "invalid_library"),
    ("POST", f"{LIBRARY}/search", b"{}", 422, "invalid_query"),
    ("POST", f"{LIBRARY}/search", b'{"query":"x","filter":[]}', 422, "invalid_filter"),
    ("POST", f"{LIBRARY}/search", b'{"query":"x","filter":{"a":1e999}}', 422, "invalid_filter"),
    ("POST", f"{LIBRARY}/search", b'{"query":"x","k":[]}', 422, "invalid_query"),
    ("POST", f"{LIBRARY}/documents/delete", b'{"filter":"x"}', 422, "invalid_filter"),
    ("GET", "/v1/libraries?limit=0", None, 422, "invalid_parameter"),
    ("GET", "/v1/libraries?after=x", None, 400, "invalid_cursor"),
    ("GET", f"{LIBRARY}/documents?include=x", None, 422, "invalid_query"),
    ("GET", f"{LIBRARY}/documents/stream?after=x", None, 400, "invalid_cursor"),
    ("GET", f"{LIBRARY}/documents/stream?follow=maybe", None, 422, "invalid_parameter"),
    ("GET", "/v1/events?after=x", None, 400, "invalid_cursor"),
    ("GET", "/v1/events?after=aaaaaaaaaaaa.1", None, 410, "cursor_expired"),
    ("GET", "/v1/events?limit=x", None, 422, "invalid_parameter"),
    ("GET", "/v1/events?wait=-1", None, 422, "invalid_parameter"),
    ("GET", "/v1/events?wait=61", None, 422, "invalid_parameter"),
    ("GET", "/v1/events?wait=nan", None, 422, "invalid_parameter"),
    ("GET", "/v1/events?types=weather.*", None, 422, "invalid_query"),
    ("GET", "/v1/events?types=", None, 422, "invalid_query"),
    ("GET", "/v1/events?filter=x", None, 422, "invalid_filter"),
    ("GET", "/v1/events?include=x", None, 422, "invalid_query"),
    ("GET", "/v1/events?format=xml", None, 422, "invalid_parameter"),
    ("GET", "/v1/events?library_id=none", None, 404, "library_not_found"),
    ("GET", "/v1/events/stream?after=x", None, 400, "invalid_cursor"),
    ("GET", "/v1/events/stream?types=x", None, 422, "invalid_query"),
    ("GET", f"{LIBRARY}/events/stream?filter=[]", None, 422, "invalid_filter"),
    ("GET", "/v1/libraries/none/events/stream", None, 404, "library_not_found"),
]


@pytest.fixture
def filled(client: Client, library: str) -> str:
    client.put(library, "known", {"text": "a"})
    return library


def check(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code
    assert problem["type"] == "urn:headwater:problem:" + code.replace("_", "-")
    assert problem["status"] == status
    assert problem["retryable"] is (status in (429, 503))
    assert problem["title"]
    assert 10 < len(problem["detail"]) < 1_000
    assert "Traceback" not in response.text
    assert problem["request_id"] == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) is (status in (429, 503))
    return problem


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), REFUSALS)
def test_every_refusal_is_a_problem(
    client: Client,
    filled: str,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    code: str,
) -> None:
    response = client.http.request(method, path.format(library=filled), content=body)
    check(response, status, code)
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/health", "GET"),
        (f"{LIBRARY}/documents", "GET, POST"),
        (f"{LIBRARY}/search/live", "GET, POST"),
        (f"{LIBRARY}/documents/known", "DELETE, GET, HEAD, PATCH, PUT"),
        ("/v1/sessions/coast", "DELETE, GET"),
    ],
)
def test_a_wrong_method_is_answered_with_all_that_a_path_takes(
    client: Client, library: str, path: str, methods: str
) -> None:
    response = client.http.request("TRACE", path.format(library=library))
    check(response, 405, "method_not_allowed")
    assert response.headers["allow"] == methods


def test_problems_carry_their_own_fields(client: Client, filled: str) -> None:
    path = f"/v1/libraries/{filled}"
    body = {"chunks": [{"vector": [1, 2]}]}
    problem = client.http.post(f"{path}/documents", json=body).json()
    assert (problem["expected"], problem["given"]) == (256, 2)
    problem = client.http.get("/v1/events?after=aaaaaaaaaaaa.1").json()
    assert problem["reason"] == "other_log"
    assert client.http.get("/v1/events", params={"after": problem["earliest"]}).status_code == 200
    problem = client.http.get("/v1/events?limit=x").json()
    assert problem["parameter"] == "limit"


def test_every_answer_has_a_request_id(client: Client, filled: str) -> None:
    for path in ("/health", "/ready", "/v1/libraries", "/nothing", "/openapi.json"):
        first, second = (client.http.get(path).headers["x-request-id"] for _ in range(2))
        assert UUID7.fullmatch(first)
        assert first != second
    stream = client.http.get(f"/v1/libraries/{filled}/documents/stream")
    assert UUID7.fullmatch(stream.headers["x-request-id"])


@pytest.mark.parametrize("id", ["a", "my-request/1", "x" * 128, "\x21\x7e"])
def test_the_clients_request_id_is_echoed(client: Client, id: str) -> None:
    response = client.http.get("/v1/libraries/none", headers={"x-request-id": id})
    assert response.headers["x-request-id"] == id
    assert response.json()["request_id"] == id


@pytest.mark.parametrize("id", [b"", b"x" * 129, b"with space", b"\xc3\xa9", b"tab\there"])
def test_an_unfit_request_id_is_replaced(client: Client, id: bytes) -> None:
    response = client.http.get("/health", headers={b"x-request-id": id})
    assert UUID7.fullmatch(response.headers["x-request-id"])


def test_health_and_ready(client: Client) -> None:
    response = client.http.get("/health")
    assert response.json() == {"status": "healthy", "version": __version__}
    ready = client.http.get("/ready").json()
    assert ready["status"] == "ready"
    assert set(ready["parts"]) == {"store", "embedder", "views", "feeds"}
    assert set(ready["parts"].values()) == {"ready"}


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"POST /v1/libraries HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/libraries HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_what_is_no_http_harms_nobody(shared: Server, client: Client, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as talk:
        talk.sendall(raw)
        talk.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := talk.recv(65_536):
            answer += piece
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert client.http.get("/health").status_code == 200
    assert "request.crashed" not in shared.said()


@pytest.mark.parametrize("keep", [0, 1, 30])
def test_a_request_cut_anywhere_harms_nobody(
    shared: Server, client: Client, filled: str, keep: int
) -> None:
    body = b'{"id":"cut","text":"x"}'
    head = b"POST /v1/libraries/%b/documents HTTP/1.1\r\nhost: a\r\ncontent-length: 23\r\n\r\n"
    whole = head % filled.encode() + body
    sent = whole[: -1 - keep]
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as talk:
        talk.sendall(sent)
    client.put(filled, "after", {"text": "x"})
    assert client.get(filled, "cut") is None
    assert "request.crashed" not in shared.said()


def test_a_refused_stream_is_a_problem_before_its_first_byte(client: Client, filled: str) -> None:
    path = f"/v1/libraries/{filled}"
    check(client.http.post(f"{path}/search/stream", content=b"{"), 400, "invalid_json")
    check(client.http.post(f"{path}/search/stream"), 422, "invalid_query")
    encoded = {"content-encoding": "br"}
    check(
        client.http.post(f"{path}/documents/stream", content=b"", headers=encoded),
        415,
        "unsupported_encoding",
    )
    check(
        client.http.post(f"{path}/documents", content=b"", headers=encoded),
        415,
        "unsupported_encoding",
    )
    damaged = {"content-encoding": "gzip"}
    check(
        client.http.post(f"{path}/documents", content=b"no gzip", headers=damaged),
        422,
        "invalid_input",
    )


def test_nothing_here_crashed_the_server(shared: Server) -> None:
    for line in shared.log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            assert json.loads(line)["level"] not in ("error", "critical"), line
