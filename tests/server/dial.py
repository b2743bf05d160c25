"""A bare TCP connection to a server under test."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


def dial(url: str, *, timeout: float, receive_buffer: int | None = None) -> socket.socket:
    """Connected to the server; every wait ends after `timeout`, in seconds.

    `receive_buffer` makes a client that takes little: it must be set before connecting.
    """
    where = urlsplit(url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(timeout)
    connection.connect((where.hostname, where.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
