"""A thousand sockets on one process, a third of which read nothing: when do the others hear?

The clock runs from an event's own timestamp, taken inside the transaction, to the moment when the
kernel has it ready to be read by its receiver, which the kernel notes by itself (`SO_TIMESTAMPNS`,
socket(7)). A crowd is hundreds of machines; here it is one process on two cores, which takes 6 µs
a socket and, when it sleeps in `epoll_wait`, has to be woken by each of the server's writes. So it
rests while the server writes, and reads when it is told to, some time after each write: the
receivers' own work is not the server's.
The same with a process that reads as soon as there is something, its clock after its `recv`, is
measured beside it.
"""

from __future__ import annotations

import time

from bench import corpus, stream
from bench.figure import Figure, percentiles_ms
from bench.listeners import Clock, Listeners
from bench.run import LIBRARY, Run
from bench.server import Server
from bench.websocket import WebSocket

SOCKETS = 1_000
PER_SECOND = 20
PATH = f"/v1/libraries/{LIBRARY}/ws"

_WRITTEN_SECONDS = 0.02
"""After which the server has written to everybody, and the crowd may read."""
_MB = 1_000_000


def measure(run: Run) -> list[Figure]:
    """Both clocks with a crowd of their own, on one server."""
    text = "x" * 20_000
    lines = [b'{"id":"large-%d","text":"%b"}\n' % (n, text.encode()) for n in range(200)]
    with run.fresh("crowd") as server:
        stream.send(server.port, LIBRARY, stream.pieces(lines))
        server.settle(LIBRARY)
        before = server.memory()["resident"]
        by_kernel, after = _heard(run, server, "kernel")
        by_reader, _ = _heard(run, server, "reader")
    grown, deaf = after - before, SOCKETS // 3
    name = f"write to event on {SOCKETS - deaf} sockets of {SOCKETS:,}, the others not reading"
    details = {"writes_per_second": PER_SECOND, **by_kernel, "read_at_once": by_reader}
    return [
        Figure(f"{name}, p50", by_kernel["p50_ms"], "ms", 3, "at most", details),
        Figure(f"{name}, p99", by_kernel["p99_ms"], "ms", 15, "at most", details),
        Figure(
            f"memory of {SOCKETS:,} sockets, a third not reading",
            grown / _MB,
            "MB",
            200,
            "at most",
            {"kb_a_socket": round(grown / SOCKETS / 1000, 1)},
        ),
    ]


def _heard(run: Run, server: Server, clock: Clock) -> tuple[dict[str, float], int]:
    """Percentiles, and the server's resident bytes while all sockets are still open."""
    texts = list(corpus.texts(round(run.seconds * PER_SECOND), seed=8))
    deaf = SOCKETS // 3
    with (
        Listeners(server.port, PATH, SOCKETS - deaf, deaf, clock=clock) as crowd,
        WebSocket(server.port, PATH) as socket,
    ):
        _wait_for_stall(server, deaf)
        with run.watched(server):
            began = time.perf_counter()
            for number, text in enumerate(texts):
                wait = began + number / PER_SECOND - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                socket.ask("add", number, {"id": f"{clock}-{number}", "text": text})
                if clock == "kernel":
                    time.sleep(_WRITTEN_SECONDS)
                    crowd.read()
            delays = crowd.collect(len(texts))
        return percentiles_ms(delays), server.memory()["resident"]


def _wait_for_stall(server: Server, deaf: int, *, at_most: float = 40.0) -> None:
    """Until so many clients take nothing any more; well before the server closes them for it."""
    ends = time.perf_counter() + at_most
    while (stalled := server.get("/v1/websockets/statistics")["waiting_to_read"]) < deaf:
        if time.perf_counter() > ends:
            raise RuntimeError(f"only {stalled} of {deaf} sockets are full")
        time.sleep(0.1)
