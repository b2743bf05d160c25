"""Servers for tests: one that all share, and fresh ones for those who stop or kill theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server.client import Client
from server.running import Server
from server.searching import DIMENSION, MANY, Floats, fill, random_vectors

Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def many(session_server: Server) -> tuple[str, Floats]:
    """A library of 12,000 vectors on the shared server, and the vectors."""
    matrix = random_vectors(1, MANY)
    with Client(session_server.url) as client:
        library = client.create_library(embedder="none", dimension=DIMENSION)["id"]
        fill(client, library, matrix)
    return library, matrix


@pytest.fixture
def shared(session_server: Server) -> Iterator[Server]:
    """The server all tests share: leave it running and use libraries of your own."""
    yield session_server
    print(f"--- {session_server.url} said:\n{session_server.said()}")


@pytest.fixture
def client(shared: Server) -> Iterator[Client]:
    with Client(shared.url) as client:
        yield client


@pytest.fixture
def library(client: Client) -> str:
    """The id of a new empty library with the static embedder, on the shared server."""
    id: str = client.create_library()["id"]
    return id


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server of the test's own: `serve(feeds__heartbeat=0.2)`; ended after the test.

    All servers of one test share one data folder, unless `data` names another.
    """
    started: list[Server] = []

    def start(data: Path | None = None, **settings: Any) -> Server:
        server = Server(data or tmp_path / "data", **settings)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()
