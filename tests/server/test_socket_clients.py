"""Clients that are not ours speak the protocol: here Node's own WebSocket, a browser's."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from server.client import Client
from server.running import Server
from server.socket_client import socket_url

CONVERSATION = """
const socket = new WebSocket(process.argv[1], ["headwater.v1"]);
const said = [];
const ask = (request_id, action, data) =>
  socket.send(JSON.stringify({type: "request", action, request_id, data}));
socket.onmessage = ({data}) => {
  const frame = JSON.parse(data);
  said.push(frame.type + (frame.request_id ?? "") + (frame.event?.type ?? frame.event ?? ""));
  if (frame.event === "welcome") ask("s", "subscribe", {types: "document.*"});
  if (frame.request_id === "s") ask("a", "add", {id: "of-node", text: "the sea \\u{1f30a}"});
  if (frame.request_id === "a") ask("w", "watch", {query_text: "sea", k: 1});
  if (frame.event === "ready") ask("q", "search", {query: "sea", k: 1});
  if (frame.request_id === "q") {
    said.push(frame.data.results[0].text);
    socket.send("nonsense");
  }
  if (frame.type === "error") socket.close(1000, "done");
};
socket.onclose = ({code, wasClean}) =>
  console.log(JSON.stringify({said, code, wasClean, protocol: socket.protocol}));
"""


def node() -> list[str]:
    """How to run Node with a WebSocket; skips where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    for flags in ([], ["--experimental-websocket"]):
        command = [found, *flags]
        probe = subprocess.run(
            [*command, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"],
            capture_output=True,
            check=False,
        )
        if probe.returncode == 0:
            return command
    pytest.skip("this Node has no WebSocket; 20.10 or later has")


def test_the_websocket_of_node_speaks_it(shared: Server, client: Client, library: str) -> None:
    command = [*node(), "-e", CONVERSATION, socket_url(shared.url, library)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert (told["code"], told["wasClean"], told["protocol"]) == (1000, True, "headwater.v1")
    assert sorted(told["said"]) == sorted(
        [
            "systemwelcome",
            "responses",
            "eventdocument.added",
            "responsea",
            "responsew",
            "livesnapshot",
            "liveready",
            "responseq",
            "the sea \U0001f30a",
            "error",
        ]
    )
    assert client.get(library, "of-node") is not None
