"""`headwater watch` with a real server: in a pipe, in a terminal, over a restart, to its end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from server.client import Client
from server.running import Server

Serve = Callable[..., Server]

COMMAND = [sys.executable, "-m", "headwater", "watch"]


@contextmanager
def watching(*arguments: str, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **how
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def changes(output: IO[bytes] | None) -> Iterator[Any]:
    assert output is not None
    for line in output:
        yield json.loads(line)


def test_a_pipe_gets_a_line_for_each_change_also_over_a_restart(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        client.create_library("notes")
        client.put("notes", "sea", {"text": "the moon pulls the sea"})
        client.put("notes", "bread", {"text": "bread is flour and water"})
        asked = ["notes", "moon and tides", "-k", "2", "--json", "--url", server.url]
        with watching(*asked, stdout=subprocess.PIPE) as process:
            told = changes(process.stdout)
            first = next(told)
            assert first["event"] == "snapshot"
            assert [hit["document_id"] for hit in first["results"]] == ["sea", "bread"]
            client.put("notes", "moon", {"text": "the moon and the tides"})
            assert [next(told)["event"], next(told)["event"]] == ["leave", "enter"]
            server.restart()
            client.delete("notes", "moon")
            back = [next(told), next(told)]
            assert {(change["event"], change["hit"]["document_id"]) for change in back} == {
                ("leave", "moon"),
                ("enter", "bread"),
            }
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert process.stderr is not None
            said = process.stderr.read()
            assert b"reconnecting" in said
            assert b"Traceback" not in said


def test_a_terminal_shows_a_table_that_changes(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        client.create_library("notes")
        client.put("notes", "sea", {"title": "Tides", "text": "the moon pulls the sea"})
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        asked = ["notes", "moon and tides", "--url", server.url]
        with watching(*asked, stdout=theirs, env=environment) as process:
            os.close(theirs)
            until(ours, rb"\+.*Tides.*the moon pulls the sea")
            client.put("notes", "moon", {"title": "Nights", "text": "the moon and the tides"})
            until(ours, rb"\+.*Nights")
            client.delete("notes", "moon")
            until(ours, "−.*Nights".encode())
            process.send_signal(signal.SIGINT)
            drain(ours)
            assert process.wait(20) == 0
        os.close(ours)


def until(terminal: int, pattern: bytes) -> None:
    """Read what is drawn until it matches, styles left out."""
    drawn = b""
    while not re.search(pattern, re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", drawn)):
        drawn += os.read(terminal, 65536)


def drain(terminal: int) -> None:
    """Read to the end: a program cannot leave a terminal that takes nothing."""
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # Linux: nobody holds the other end any more
        return
