"""A browser speaks the protocol of sessions: a page joins one, and sees a result change.

Needs a Chromium of the system; there is nothing else to install for it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright
from server.client import Client
from server.guest import Guest
from server.running import Server

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"
)

JOIN = """
([session, name]) => {
  const who = new URLSearchParams({ library: "notes", display_name: name })
  const address = `${location.origin.replace("http", "ws")}/v1/sessions/${session}?${who}`
  const socket = new WebSocket(address, "headwater.v1")
  window.seen = { hits: [], people: {}, messages: [], closed: null, spoken: socket }
  const seen = window.seen
  socket.onclose = ({ code, reason }) => { seen.closed = { code, reason } }
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data)
    if (frame.type === "state") {
      seen.people = Object.fromEntries(frame.data.people.map((p) => [p.person_id, p.name]))
      seen.hits = frame.data.results ? frame.data.results.hits : []
    } else if (frame.type === "event" && frame.event.type === "session.joined") {
      seen.people[frame.event.data.person.person_id] = frame.event.data.person.name
    } else if (frame.type === "event" && frame.event.type === "session.left") {
      delete seen.people[frame.event.data.person.person_id]
    } else if (frame.type === "message") {
      seen.messages.push(frame.data)
    } else if (frame.type === "live" && frame.event === "snapshot") {
      seen.hits = frame.data.results
    } else if (frame.type === "live" && frame.data.hit) {
      const { hit } = frame.data
      seen.hits = seen.hits.filter((h) => h.chunk_id !== hit.chunk_id)
      if (frame.event !== "leave") seen.hits.splice(hit.rank - 1, 0, hit)
    }
  }
}
"""
SEES_HITS = "(ids) => JSON.stringify(seen.hits.map((h) => h.document_id)) === JSON.stringify(ids)"
SEES_PEOPLE = "(names) => JSON.stringify(Object.values(seen.people)) === JSON.stringify(names)"
SEND = "(frame) => seen.spoken.send(JSON.stringify(frame))"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data") as running, Client(running.url) as client:
        client.create_library("notes")
        client.put("notes", "sea", {"text": "the moon pulls the sea"})
        client.put("notes", "bread", {"text": "flour and water"})
        yield running


@pytest.fixture
def page(server: Server) -> Iterator[Page]:
    """A page of the server's own origin."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        opened = browser.new_page()
        opened.goto(f"{server.url}/health")
        yield opened
        browser.close()


def test_a_page_joins_a_session_and_sees_its_results_change(server: Server, page: Page) -> None:
    def waits(condition: str, wanted: Any) -> None:
        page.wait_for_function(condition, arg=wanted, timeout=20_000)

    with Client(server.url) as client, Guest(server.url, "coast", "Ann", "notes") as ann:
        ann.ask(query="moon and tides", k=2)
        page.evaluate(JOIN, ["coast", "Page"])
        waits(SEES_PEOPLE, ["Ann", "Page"])
        waits(SEES_HITS, ["sea", "bread"])
        ann.sees("Ann", "Page")
        client.put("notes", "moon", {"text": "the moon and the tides"})
        waits(SEES_HITS, ["moon", "sea"])
        page.evaluate(SEND, {"type": "message", "data": {"hit": "moon#0"}})
        assert ann.hears() == [{"hit": "moon#0"}]
        query = {"query": "baking", "k": 1}
        page.evaluate(
            SEND,
            {
                "type": "request",
                "action": "revise",
                "request_id": "from the page",
                "data": {"base_revision": 1, "query": query},
            },
        )
        ann.finds("bread")
        assert ann.query["author"]["name"] == "Page"
        waits(SEES_HITS, ["bread"])
        ann.say("hello")
        waits("(text) => seen.messages[0] === text", "hello")
        page.close()
        ann.sees("Ann")


@pytest.mark.parametrize("document", ["docs/sessions.md", "README.md"])
def test_the_example_of_a_document_works_in_a_page(
    server: Server, page: Page, document: str
) -> None:
    blocks = re.findall(r"```js\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "/v1/sessions/" in block]
    example = example.replace("localhost:8000", server.url.removeprefix("http://"))
    page.evaluate("() => { window.told = []; console.log = (frame) => told.push(frame) }")
    page.evaluate(f"() => {{ {example} }}")
    snapshot = "() => told.find((frame) => frame.type === 'live' && frame.event === 'snapshot')"
    page.wait_for_function(snapshot, timeout=20_000)
    assert page.evaluate("() => told.slice(0, 2).map((frame) => frame.type)") == ["system", "state"]
    assert page.evaluate(snapshot)["data"]["results"][0]["document_id"] == "sea"


def test_a_page_learns_why_it_may_not_join(server: Server, page: Page) -> None:
    page.evaluate(JOIN, ["coast", " "])
    page.wait_for_function("() => seen.closed !== null", timeout=20_000)
    assert page.evaluate("() => seen.closed") == {"code": 1008, "reason": "invalid_session"}
