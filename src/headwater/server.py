"""The server process: sockets, workers, logs.

`headwater serve` calls `serve`; everything about documents and changes is in `app.py`.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import socket
import sys
from typing import Any, cast

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from headwater.app import create_app
from headwater.errors import Refused
from headwater.joined_writes import JoinedWritesProtocol
from headwater.settings import Settings
from headwater.socket_messages import Unfinished
from headwater.socket_protocol import SocketProtocol

UNSENT_BYTES = 128 << 10
"""What the system keeps for a connection beyond what is on its way to the peer (tcp(7))."""


def serve(settings: Settings) -> None:
    """Serve until told to stop by SIGTERM or SIGINT.

    Raises `Refused` when the address must not be listened on or the data folder cannot be used.
    """
    configure_logs(settings.log_level)
    _check_address(settings)
    sockets = settings.websocket
    unfinished = Unfinished(sockets.unfinished_bytes)
    config = uvicorn.Config(
        functools.partial(worker_app, settings),
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="headwater.accepting:new_loop" if settings.workers > 1 else "auto",
        log_config=None,
        access_log=False,
        lifespan="on",
        http=JoinedWritesProtocol,
        ws=cast(Any, functools.partial(SocketProtocol, settings=sockets, unfinished=unfinished)),
        proxy_headers=False,  # nobody here asks who the client is
        server_header=False,
        date_header=False,
        backlog=4096,
        timeout_keep_alive=75,
        # A worker answers once it has imported everything; on a busy machine that took longer than
        # uvicorn's 5 s, and it was killed and begun again without end.
        timeout_worker_healthcheck=30,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout.total_seconds())),
    )
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    structlog.get_logger(__name__).info(
        "server.listening",
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        data=str(settings.data.resolve()),
        workers=settings.workers,
    )
    if settings.workers > 1:
        _Workers(config, sockets=[listener]).run()
    else:
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        if not server.started:
            raise Refused("the server could not start; the log above says why")


class _Workers(Multiprocess):
    """The parent of the worker processes: puts another in the place of one that has died."""

    def keep_subprocess_alive(self) -> None:
        # The parent holds the workers' ends of their pipes as well. Let go of, a pipe ends with its
        # worker, and one that dies before it answers is not waited for until the answer is due.
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def worker_app(settings: Settings) -> FastAPI:
    """The application of one worker process, with its logs set up."""
    configure_logs(settings.log_level)
    return create_app(settings)


def configure_logs(level: str) -> None:
    """Lines for people on a terminal, JSON for machines elsewhere; both on standard error."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), stream=sys.stderr)


def _check_address(settings: Settings) -> None:
    if settings.allow_open or settings.host == "localhost":
        return
    try:
        if ipaddress.ip_address(settings.host).is_loopback:
            return
    except ValueError:
        pass
    raise Refused(
        f"{settings.host} can be reached by others and this version has no API keys; listen on "
        "127.0.0.1 behind a proxy that authenticates, or pass --allow-open to serve everybody"
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer that takes nothing must not hold its connection for ever, not even one that is
        # already closing (tcp(7)); accepted sockets inherit this from the listening one.
        stall_ms = round(settings.feeds.stall.total_seconds() * 2000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Inherited, too. Else the system takes up to 4 MB for each peer that reads nothing.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise Refused(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another with --port"
        ) from error
    listener.listen(4096)
    listener.set_inheritable(True)
    return listener
