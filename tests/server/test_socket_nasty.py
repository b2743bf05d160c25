"""What no good client does on a WebSocket: it is answered or closed, and nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest
from server.client import Client, Json
from server.running import Server, eventually
from server.socket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    BareSocket,
    Socket,
    frame_of,
)

Serve = Callable[..., Server]

PING_REQUEST = b'{"type":"request","action":"ping","request_id":1}'
MB = 1_000_000


def statistics(client: Client) -> Json:
    found: Json = client.http.get("/v1/websockets/statistics").json()
    return found


def nothing_is_left(client: Client) -> None:
    """No socket, and nothing that belonged to one."""

    def gone() -> bool:
        now = statistics(client)
        kept = ("connections", "subscriptions", "watches", "requests_in_flight")
        return not any(now[name] for name in kept)

    eventually(gone, "all sockets and what they had to be gone")


# ── Frames that are wrong, and a socket that goes on ────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", "invalid_json"),
        (b"nonsense", "invalid_json"),
        (b"", "invalid_json"),
        (b'"' + b"\\ud800" + b'"', "invalid_json"),
        (
            b'{"type":"request","request_id":1,"action":"get","data":' + b"[" * 99_000,
            "invalid_json",
        ),
        (b"[" * 100_000, "invalid_frame"),
        (b'{"a":' * 100_000, "invalid_frame"),
        (b"[1,2]", "invalid_frame"),
        (b"5", "invalid_frame"),
        (b"null", "invalid_frame"),
        (b"{}", "invalid_frame"),
        (b'{"type":"request"}', "invalid_frame"),
        (b'{"type":"request","action":"ping"}', "invalid_frame"),
        (b'{"type":"request","request_id":null,"action":"ping"}', "invalid_frame"),
        (b'{"type":"request","request_id":1.5,"action":"ping"}', "invalid_frame"),
        (b'{"type":"request","request_id":true,"action":"ping"}', "invalid_frame"),
        (b'{"type":"request","request_id":{},"action":"ping"}', "invalid_frame"),
        (b'{"type":"request","request_id":"%b","action":"ping"}' % (b"x" * 129), "invalid_frame"),
        (b'{"type":"request","request_id":9007199254740993,"action":"ping"}', "invalid_frame"),
    ],
)
def test_a_message_that_is_no_request_is_answered_with_an_error_frame(
    shared: Server, library: str, message: bytes, code: str
) -> None:
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(frame_of(message))
        frame = bare.json()
        assert (frame["type"], frame["error"]["code"]) == ("error", code), frame
        bare.send(frame_of(PING_REQUEST))
        assert bare.json()["success"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b'{"type":"subscribe","request_id":7,"action":"ping"}', "invalid_frame"),
        (b'{"type":"request","request_id":7}', "invalid_frame"),
        (b'{"type":"request","request_id":7,"action":5}', "invalid_frame"),
        (b'{"type":"request","request_id":7,"action":"ping","extra":1}', "invalid_frame"),
        (b'{"type":"request","request_id":7,"action":"ping","data":[]}', "invalid_input"),
        (b'{"type":"request","request_id":7,"action":"sing"}', "unknown_action"),
    ],
)
def test_a_request_that_is_wrong_is_answered_under_its_id(
    shared: Server, library: str, message: bytes, code: str
) -> None:
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(frame_of(message))
        frame = bare.json()
        assert (frame["type"], frame["request_id"], frame["success"]) == ("response", 7, False)
        assert frame["error"]["code"] == code
        bare.send(frame_of(PING_REQUEST))
        assert bare.json()["success"]


def test_binary_messages_are_refused_and_the_socket_goes_on(shared: Server, library: str) -> None:
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(frame_of(PING_REQUEST, BINARY))
        frame = bare.json()
        assert (frame["type"], frame["error"]["code"]) == ("error", "invalid_frame")
        bare.send(frame_of(PING_REQUEST))
        assert bare.json()["success"]


def test_a_message_may_come_in_fragments_of_any_size(shared: Server, library: str) -> None:
    message = PING_REQUEST
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(frame_of(message[:1], TEXT, fin=False))
        for at in range(1, len(message)):
            bare.send(frame_of(b"", CONTINUATION, fin=False))
            bare.send(frame_of(message[at : at + 1], CONTINUATION, fin=False))
            if at % 10 == 0:
                bare.send(frame_of(b"%d" % at, PING))
                assert bare.frame() == (PONG, b"%d" % at)
        bare.send(frame_of(b"", CONTINUATION))
        assert bare.json()["success"]
        whole = frame_of(message)
        for at in range(len(whole)):
            bare.send(whole[at : at + 1])
        assert bare.json()["success"]


def test_fragments_without_end_and_without_content_cost_no_memory(
    shared: Server, client: Client, library: str
) -> None:
    process = psutil.Process(shared.process.pid)
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(frame_of(b"", TEXT, fin=False))
        many = frame_of(b"", CONTINUATION, fin=False) * 10_000
        bare.send(many)
        before = process.memory_info().rss
        for _ in range(30):
            bare.send(many)
        bare.send(frame_of(b"now", PING))
        assert bare.frame() == (PONG, b"now")
        assert process.memory_info().rss - before < 20 * MB
        bare.send(frame_of(PING_REQUEST, CONTINUATION))
        assert bare.json()["success"]


# ── Frames after which a socket cannot go on ────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame_of(b"x", masked=False), 1002),
        (frame_of(b"x", 3), 1002),
        (frame_of(b"x", CONTINUATION), 1002),
        (frame_of(b"x", TEXT, fin=False) + frame_of(b"y", TEXT), 1002),
        (frame_of(b"x", PING, fin=False), 1002),
        (frame_of(b"x" * 126, PING), 1002),
        (bytes((0xC1, 0x80)) + b"\0\0\0\0", 1002),
        (frame_of(b"\x00", CLOSE), 1002),
        (frame_of(b"\x03\xed", CLOSE), 1002),
        (frame_of(b"\xff\xfe"), 1007),
        (frame_of(b"", size=1 << 40), 1009),
        (frame_of(b"", size=(4 << 20) + 1), 1009),
        (frame_of(b"x" * (3 << 20), fin=False) + frame_of(b"x" * (2 << 20), CONTINUATION), 1009),
    ],
)
def test_what_is_no_frame_closes_the_socket_with_its_code(
    shared: Server, library: str, sent: bytes, code: int
) -> None:
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(sent)
        assert bare.close_code() == code
        assert not list(bare.frames()), "and nothing after that"


def test_the_close_code_reaches_a_client_that_is_still_sending(
    shared: Server, library: str
) -> None:
    with BareSocket(shared.url, library) as bare:
        bare.json()
        bare.send(frame_of(b"x" * (20 << 20)))
        assert bare.close_code() == 1009


def test_a_close_is_answered_with_its_code(shared: Server, library: str) -> None:
    for sent in (b"", b"\x03\xe8", b"\x0f\xa0bye"):
        with BareSocket(shared.url, library) as bare:
            bare.json()
            bare.send(frame_of(sent, CLOSE))
            assert bare.frame() == (CLOSE, sent)
            assert not list(bare.frames())


def test_a_message_that_would_not_fit_beside_the_others_is_turned_away(serve: Serve) -> None:
    server = serve(websocket__unfinished_bytes=8 << 20)
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library()["id"]
        holding = [stack.enter_context(BareSocket(server.url, library)) for _ in range(2)]
        for bare in holding:
            bare.json()
            bare.send(frame_of(b"x" * (3 << 20), fin=False))
            bare.send(frame_of(b"", PING))
            bare.frame()
        late = stack.enter_context(BareSocket(server.url, library))
        late.json()
        late.send(frame_of(b"x" * (3 << 20), fin=False))
        assert late.close_code() == 1013
        for bare in holding:
            bare.send(frame_of(b"", CONTINUATION))
            assert bare.json()["error"]["code"] == "invalid_json"
        again = stack.enter_context(BareSocket(server.url, library))
        again.json()
        again.send(frame_of(b"x" * (3 << 20)))
        assert again.json()["error"]["code"] == "invalid_json"


# ── Leaving, at every step ──────────────────────────────────────────────────────────────────────


def test_whoever_leaves_at_any_step_leaves_nothing_behind(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library()["id"]
        client.stream(library, ({"id": f"d{n}", "text": f"text {n}"} for n in range(800)))
        with Socket(server.url, library) as witness:
            subscription = witness.ask("subscribe")["subscription_id"]

            def connected(bare: BareSocket) -> None:
                pass

            def greeted(bare: BareSocket) -> None:
                bare.json()

            def half_a_frame(bare: BareSocket) -> None:
                bare.send(frame_of(PING_REQUEST)[:9])

            def half_a_message(bare: BareSocket) -> None:
                bare.send(frame_of(PING_REQUEST[:9], fin=False))

            def asked(bare: BareSocket) -> None:
                for number in range(60):
                    bare.ask("search", number, query="text", k=500, mode="vector")

            def asked_to_subscribe(bare: BareSocket) -> None:
                bare.ask("subscribe", after="beginning")

            def subscribed(bare: BareSocket) -> None:
                bare.json()
                for number in range(5):
                    bare.ask("subscribe", number, after="beginning")
                bare.json()

            def asked_to_watch(bare: BareSocket) -> None:
                bare.ask("watch", query="text")

            def watching(bare: BareSocket) -> None:
                bare.json()
                for number in range(20):
                    bare.ask("watch", number, query=f"text {number}")
                for _ in range(20):
                    bare.json()

            def windowed(bare: BareSocket) -> None:
                bare.json()
                bare.ask("subscribe", after="beginning", max_unacked=1)
                bare.json()
                bare.json()

            def adding(bare: BareSocket) -> None:
                for number in range(40):
                    bare.ask("add", number, text="unheard")

            def unsubscribing(bare: BareSocket) -> None:
                bare.ask("subscribe", 1)
                bare.ask("unsubscribe", 2, subscription_id="subscription-1")

            def unwatching(bare: BareSocket) -> None:
                bare.ask("watch", 1, query="text")
                bare.ask("unwatch", 2, watch_id="watch-1")

            def failing(bare: BareSocket) -> None:
                bare.send(frame_of(b"x", masked=False))

            def closing(bare: BareSocket) -> None:
                bare.send(frame_of(b"\x03\xe8", CLOSE))

            steps = (
                connected,
                greeted,
                half_a_frame,
                half_a_message,
                asked,
                asked_to_subscribe,
                subscribed,
                asked_to_watch,
                watching,
                windowed,
                adding,
                unsubscribing,
                unwatching,
                failing,
                closing,
            )
            with BareSocket(server.url, library, handshake=False) as bare:
                bare.send(b"GET /v1/libraries/x/ws HTTP/1.1\r\n")
            for step in steps:
                for leave in (BareSocket.reset, lambda bare: bare.socket.close()):
                    bare = BareSocket(server.url, library)
                    step(bare)
                    leave(bare)

            def only_the_witness() -> bool:
                now = statistics(client)
                return bool(
                    now["connections"] == 1
                    and now["subscriptions"] == 1
                    and now["watches"] == 0
                    and now["requests_in_flight"] == 0
                )

            eventually(only_the_witness, "the others to be gone")
            last = client.put(library, "last", {"text": "the last"})
            told = witness.events(subscription, 1)
            while told[-1]["id"] != last["cursor"]:
                told += witness.events(subscription, 1)
        nothing_is_left(client)
        figures = statistics(client)
        assert figures["total_connections"] == sum(figures["closed"].values())
        assert "internal" not in figures["errors"], server.said()
        assert "crashed" not in server.said()


def test_hundreds_of_short_visits_leave_no_memory_behind(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library()["id"]

        def visit() -> None:
            with BareSocket(server.url, library) as bare:
                bare.json()
                bare.ask("subscribe", 1)
                bare.ask("ping", 2)
                bare.json()

        for _ in range(150):
            visit()
        nothing_is_left(client)
        before = server.rss_bytes()
        for _ in range(500):
            visit()
        nothing_is_left(client)
        assert server.rss_bytes() - before < 8 * MB


def flood(bare: BareSocket, data: bytes) -> None:
    """Send it over and over, up to 200 MB."""
    for _ in range(200 * MB // len(data)):
        bare.send(data)


# ── Those who do not read ───────────────────────────────────────────────────────────────────────


def test_a_flood_of_pings_whose_pongs_are_not_read_costs_no_memory(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library()["id"]
        before = server.rss_bytes()
        with BareSocket(server.url, library, receive_buffer=4096, timeout=1.0) as bare:
            with pytest.raises(TimeoutError):  # it is not read any more
                flood(bare, frame_of(b"x" * 125, PING) * 1000)
            assert server.rss_bytes() - before < 30 * MB
            with Socket(server.url, library) as other:
                other.ask("ping")
        nothing_is_left(client)


def test_a_flood_of_small_frames_holds_up_nobody(serve: Serve) -> None:
    server = serve(websocket__requests_per_second=100, websocket__burst=10)
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library()["id"]
        floods = [
            stack.enter_context(BareSocket(server.url, library, timeout=0.5)) for _ in range(4)
        ]
        for bare in floods:
            with pytest.raises(TimeoutError):
                flood(bare, frame_of(b"{}") * 5000)
        with Socket(server.url, library) as other:
            for _ in range(5):
                other.ask("ping")
        handled = statistics(client)["total_errors"]
        assert handled < 20_000, "no more than the rate allows is looked at"


def test_a_client_that_reads_nothing_is_closed_after_the_stall(serve: Serve) -> None:
    server = serve(websocket__stall=0.5)
    with Client(server.url) as client:
        library = client.create_library()["id"]
        client.stream(library, ({"id": f"d{n}", "text": "y" * 2000} for n in range(3000)))
        with BareSocket(server.url, library, receive_buffer=4096) as bare:
            for number in range(8):
                bare.ask("search", number, query="y", k=3000, mode="vector")
            eventually(lambda: statistics(client)["closed"].get("4408") == 1, "it to be closed")
        nothing_is_left(client)


def test_a_client_that_reads_slowly_is_not_closed(serve: Serve) -> None:
    server = serve(websocket__stall=1)
    with Client(server.url) as client:
        library = client.create_library()["id"]
        client.stream(library, ({"id": f"d{n}", "text": "y" * 2000} for n in range(300)))
        with BareSocket(server.url, library, receive_buffer=4096) as bare:
            bare.json()
            for number in range(8):
                bare.ask("search", number, query="y", k=300, mode="vector")
            last = 0
            while last < 8:
                frame = bare.json()
                last += frame["last"]
                time.sleep(0.05)  # what is tested: a reader slower than the stall, in all
            bare.ask("ping", 99)
            assert bare.json()["request_id"] == 99


def test_a_client_that_answers_no_ping_is_closed(serve: Serve) -> None:
    server = serve(websocket__ping_every=1, websocket__ping_timeout=1)
    with Client(server.url) as client:
        library = client.create_library()["id"]
        with Socket(server.url, library) as alive, BareSocket(server.url, library) as dead:
            dead.json()
            assert dead.frame()[0] == PING
            assert dead.close_code() == 1011
            alive.ask("ping")
            eventually(lambda: statistics(client)["closed"] == {"1011": 1}, "it to be counted")


def test_a_client_that_is_kept_waiting_needs_to_answer_no_ping(serve: Serve) -> None:
    """While its requests are worked on the socket is not read, and so no pong is heard."""
    server = serve(websocket__ping_every=0.1, websocket__ping_timeout=0.1, websocket__in_flight=1)
    with Client(server.url) as client:
        library = client.create_library()["id"]
        client.stream(library, ({"id": f"d{n}", "text": "y" * 2000} for n in range(3000)))
        with BareSocket(server.url, library, receive_buffer=4096) as bare:
            bare.json()
            for number in range(30):
                bare.ask("search", number, query="y", k=3000, mode="vector")
            eventually(lambda: statistics(client)["waiting_to_read"] == 1, "it to be full")
            with BareSocket(server.url, library) as clock:
                clock.json()
                for _ in range(10):  # five times what a silent peer is given
                    opcode, payload = clock.frame()
                    assert opcode == PING
                    clock.send(frame_of(payload, PONG))
            assert "1011" not in statistics(client)["closed"]


def test_a_stopping_server_says_goodbye_and_closes(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library()["id"]
        client.stream(library, ({"id": f"d{n}", "text": "y" * 2000} for n in range(1000)))
        reading = stack.enter_context(Socket(server.url, library))
        subscription = reading.ask("subscribe", types="document.*")["subscription_id"]
        deaf = stack.enter_context(BareSocket(server.url, library, receive_buffer=4096))
        for number in range(8):
            deaf.ask("search", number, query="y", k=1000, mode="vector")
        silent = [stack.enter_context(BareSocket(server.url, library)) for _ in range(300)]
        last = client.put(library, "last", {"text": "z"})
        reading.events(subscription, 1)
        assert server.stop() < 8
        goodbye = reading.next(lambda f: f.get("event") == "goodbye")
        assert goodbye["reason"] == "stopping"
        assert goodbye["subscriptions"] == {subscription: last["cursor"]}
        for bare in silent[:5]:
            assert bare.close_code() == 1001
