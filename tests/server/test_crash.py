"""kill -9 anywhere: what was acknowledged is there, and log, data and views agree."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import invariants
import pytest
from server.client import Client, Json
from server.pump import Pump
from server.running import Server, eventually

from headwater import failpoints
from headwater.settings import SearchSettings

Serve = Callable[..., Server]

TINY: dict[str, Any] = {
    "ingest__group_lines": 40,
    "search__seal_rows": 64,
    "search__exact_rows": 0,
    "search__settle": 0.1,
    "search__snapshot_every": 0.2,
}
SEARCH = SearchSettings(seal_rows=64, exact_rows=0)

NTH = {
    "store.before_commit": 25,
    "store.after_commit": 25,
    "changes.after_publish": 25,
    "ingest.before_result": 9,
    "ingest.before_summary": 1,
    "library.mid_sweep": 2,
}
"""How often each place is passed before it kills: late enough for a stream to be under way."""
VIEWS = tuple(sorted(name for name in failpoints.NAMES if name.startswith("view.")))
"""Passed when a view is saved, whatever the stream does: the test says when it may be."""
ELSEWHERE = frozenset(
    name
    for name in failpoints.NAMES
    if name.startswith(
        (
            "alerts.",
            "delete.",
            "embedding.",
            "export.",
            "import.",
            "keyword.",
            "rebuild.",
            "regenerate.",
        )
    )
)
"""Places of parts that such a stream does not come by; their own tests kill there."""
LIMIT = 2000


def documents(start: int = 0, prefix: str = "doc") -> Iterator[Json]:
    """Endless documents with vectors of three numbers, no two the same direction."""
    for number in itertools.count(start):
        vector = [1.0, number % 97, number // 97]
        yield {
            "id": f"{prefix}-{number}",
            "chunks": [{"vector": vector, "text": f"text of {number}"}],
            "metadata": {"number": number},
        }


def check_everything(client: Client, library: str, promised: set[str]) -> None:
    invariants.acknowledged_is_there(client, library, promised)
    invariants.log_tells_what_is_there(client, library)
    invariants.every_document_is_found(client, library, {"vector": [1, 1, 1]})
    invariants.batches_are_ended(client)


@pytest.fixture(scope="module")
def two_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an empty library `filling` and one of 900 documents, `doomed`."""
    folder = tmp_path_factory.mktemp("two") / "data"
    with Server(folder, **TINY) as server, Client(server.url) as client:
        client.create_library("filling", embedder="none", dimension=3)
        client.create_library("doomed", embedder="none", dimension=3)
        client.stream("doomed", itertools.islice(documents(), 900), response="summary")
        server.kill()
    return folder


def copied(data: Path, to: Path) -> None:
    """A copy of a data folder, without the sockets that a killed process leaves in it."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns("bus"))


def id_of(client: Client, library: str) -> str:
    id: str = client.http.get(f"/v1/libraries/{library}").json()["id"]
    return id


def batch_events(client: Client, library: str) -> list[str]:
    return [event["type"] for event in client.all_events(library_id=library, types="batch.*")]


def check_and_send_again(client: Client, library: str, promised: set[str]) -> None:
    """Nothing promised is gone; and the client's remedy: what is sent again is there once."""
    check_everything(client, library, promised)
    again = client.stream(library, itertools.islice(documents(), LIMIT), response="summary")
    kept = again[-1]["unchanged"]
    assert again[-1] == again[-1] | {"created": LIMIT - kept, "updated": 0, "failed": 0}
    assert kept >= len(promised)
    check_everything(client, library, {f"doc-{number}" for number in range(LIMIT)})


@pytest.mark.parametrize("name", sorted(failpoints.NAMES - ELSEWHERE - {*VIEWS}))
def test_killed_at_failpoint_it_keeps_what_it_acknowledged(
    tmp_path: Path, two_libraries: Path, serve: Serve, name: str
) -> None:
    copied(two_libraries, tmp_path / "copy")
    server = serve(tmp_path / "copy", failpoints=f"{name}:{NTH[name]}", **TINY)
    with Client(server.url) as client:
        library, doomed = id_of(client, "filling"), id_of(client, "doomed")
        hold = name != "ingest.before_summary"
        with Pump(server.url, library, itertools.islice(documents(), LIMIT), hold=hold) as pump:
            if name == "library.mid_sweep":
                pump.wait_promised(1)
                client.http.delete(f"/v1/libraries/{doomed}")
            server.wait_killed()
            pump.finish()
            pump.join()
        assert pump.cut
        assert pump.summary is None
        if name.startswith("ingest"):
            assert pump.promised or name == "ingest.before_result"

        server.start()
        assert batch_events(client, library) == ["batch.started", "batch.failed"]
        if name == "library.mid_sweep":
            assert client.http.get(f"/v1/libraries/{doomed}").status_code == 404
            assert client.create_library("doomed")["documents"] == 0
        else:
            invariants.every_document_is_found(client, doomed, {"vector": [1, 1, 1]})
        check_and_send_again(client, library, pump.promised)
        server.stop()
    invariants.folder_is_sound(server.data, SEARCH)


@pytest.mark.parametrize("last", ["batch.failed", "batch.completed"])
@pytest.mark.parametrize("name", VIEWS)
def test_killed_while_a_view_is_saved_it_keeps_what_it_acknowledged(
    tmp_path: Path, two_libraries: Path, serve: Serve, name: str, last: str
) -> None:
    """While the stream is open, which fails its batch; and after the summary came."""
    copied(two_libraries, tmp_path / "copy")
    gate = tmp_path / "gate"
    server = serve(tmp_path / "copy", failpoints=f"{name}@{gate}", **TINY)
    with Client(server.url) as client:
        library, doomed = id_of(client, "filling"), id_of(client, "doomed")
        hold = last == "batch.failed"
        with Pump(server.url, library, itertools.islice(documents(), LIMIT), hold=hold) as pump:
            if hold:
                pump.wait_promised(1)
            else:
                pump.join()
            # A view that was saved before, so that this is a second time: files to be replaced.
            views = server.data / "views" / library
            eventually(lambda: (views / "manifest.json").exists(), "the view to be saved")
            gate.touch()
            # One more row, so that the view has something to save. The answer may be cut off.
            with contextlib.suppress(httpx.TransportError):
                client.put(library, "late", {"chunks": [{"vector": [1, 5, 1], "text": "late"}]})
            server.wait_killed()
            pump.finish()
            pump.join()
        assert (pump.summary is None) == hold

        server.start()
        assert batch_events(client, library) == ["batch.started", last]
        invariants.every_document_is_found(client, doomed, {"vector": [1, 1, 1]})
        check_and_send_again(client, library, pump.promised)
        server.stop()
    invariants.folder_is_sound(server.data, SEARCH)


class Fiddler:
    """Single puts, updates and deletes beside a stream, and what is known of their outcome."""

    def __init__(self, url: str, library: str, dice: random.Random) -> None:
        self.known: dict[str, Json | None] = {}
        self.doubtful: dict[str, Json | None] = {}
        self.cut = threading.Event()
        self._url, self._library, self._dice = url, library, dice
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with Client(self._url, timeout=30) as client:
            while not self.cut.is_set():
                id = f"one-{self._dice.randrange(20)}"
                new: Json | None = None
                if self._dice.random() < 0.7:
                    new = {"metadata": {"n": self._dice.randrange(1000)}}
                    new["chunks"] = [{"vector": [1, self._dice.random(), 0], "text": "one"}]
                if new is None and self.known.get(id) is None:
                    continue  # nothing known to be there that could be deleted
                self.doubtful = {id: new}
                try:
                    if new is not None:
                        client.put(self._library, id, new)
                    else:
                        client.delete(self._library, id)
                except httpx.TransportError:
                    return
                self.known[id] = new
                self.doubtful = {}

    def check(self, client: Client) -> None:
        """Every id is as last acknowledged, or as the request that was cut off wanted it."""
        stored = client.documents(self._library)
        for id, wanted in self.known.items():
            there = stored.get(id)
            possible = [wanted, *([self.doubtful[id]] if id in self.doubtful else [])]
            seen = there and {"metadata": there["metadata"]}
            assert seen in [w and {"metadata": w["metadata"]} for w in possible], id


def test_killed_at_random_moments_of_running_streams_it_keeps_what_it_acknowledged(
    serve: Serve,
) -> None:
    dice = random.Random(20)
    server = serve(**TINY)
    promised: set[str] = set()
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=3)["id"]
        for turn, response in enumerate(("results", "errors", "results", "errors")):
            fiddler = Fiddler(server.url, library, dice)
            goal = dice.randrange(1, 1200)
            with Pump(
                server.url,
                library,
                itertools.islice(documents(prefix=f"turn{turn}"), 2000),
                response=response,
            ) as pump:
                pump.wait_promised(goal)
                # Not waited for luck: the moment of the crash is meant to be random.
                time.sleep(dice.random() * 0.05)
                server.kill()
                fiddler.cut.set()
                pump.join()
            fiddler.join()
            promised |= pump.promised
            server.start()
            fiddler.check(client)
            check_everything(client, library, promised)
        server.stop()
    invariants.folder_is_sound(server.data, SEARCH)


def test_reader_that_was_connected_at_the_crash_misses_and_repeats_nothing(serve: Serve) -> None:
    server = serve(**TINY)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=3)["id"]
        heard: list[Json] = []
        with client.events(library=library, types="document.*") as events:
            after = next(events).data["cursor"]
            with Pump(server.url, library, itertools.islice(documents(), 2000)) as pump:
                heard += events.take(300)
                server.kill()
                with pytest.raises(httpx.TransportError):
                    heard += (sent.data for sent in events)
                pump.join()
            after = events.last_id or after
        server.start()
        client.put(library, "last", {"chunks": [{"vector": [1, 0, 0]}]})
        with client.events(library=library, types="document.*", last_id=after) as events:
            for sent in events:
                if sent.event.startswith("document."):
                    heard.append(sent.data)
                    if sent.data["data"]["document_id"] == "last":
                        break
        # Whatever was heard before the crash is true after it, and the rest follows on.
        assert heard == client.all_events(library_id=library, types="document.*")
        ids = [event["data"]["document_id"] for event in heard[:-1]]
        assert ids == [f"doc-{number}" for number in range(len(ids))]
        assert pump.promised <= set(ids)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a saved view of several segments, a head and dead rows."""
    folder = tmp_path_factory.mktemp("saved") / "data"
    with Server(folder, **TINY) as server, Client(server.url) as client:
        library = client.create_library("saved", embedder="none", dimension=3)["id"]
        client.stream(library, itertools.islice(documents(), 300), response="summary")
        for number in range(0, 60, 7):
            client.delete(library, f"doc-{number}")

        def sealed() -> bool:
            index = client.http.get(f"/v1/libraries/{library}").json()["index"]
            return bool(index["segments"])

        eventually(sealed, "the view to have segments")
        server.stop()
    assert any((folder / "views").rglob("*")), "no view was saved"
    invariants.folder_is_sound(folder, SEARCH)
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x10
    path.write_bytes(body)


def lose(path: Path) -> None:
    path.unlink()


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 40)


@pytest.mark.parametrize("damage", [truncate, empty, flip, lose, lengthen])
def test_view_with_a_damaged_file_is_rebuilt_from_the_store(
    tmp_path: Path, saved: Path, damage: Callable[[Path], None]
) -> None:
    files = sorted(path for path in (saved / "views").rglob("*") if path.is_file())
    assert len(files) >= 4
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        copied(saved, copy)
        damage(copy / file.relative_to(saved))
        invariants.folder_is_sound(copy, SEARCH)


def test_server_on_damaged_views_answers_rightly_and_saves_them_anew(
    tmp_path: Path, saved: Path, serve: Serve
) -> None:
    copy = tmp_path / "copy"
    copied(saved, copy)
    for file in sorted(path for path in (copy / "views").rglob("*") if path.is_file()):
        flip(file)
    server = serve(copy, **TINY)
    with Client(server.url) as client:
        invariants.every_document_is_found(client, "saved", {"vector": [1, 1, 1]})
        client.put("saved", "new", {"chunks": [{"vector": [1, 5, 1]}]})
        (hit,) = client.search("saved", vector=[1, 5, 1], k=1)["results"]
        assert hit["score"] == pytest.approx(1)
        server.stop()
    invariants.folder_is_sound(copy, SEARCH)


def test_views_that_are_gone_are_made_again(tmp_path: Path, saved: Path, serve: Serve) -> None:
    copy = tmp_path / "copy"
    copied(saved, copy)
    shutil.rmtree(copy / "views")
    server = serve(copy, **TINY)
    with Client(server.url) as client:
        invariants.every_document_is_found(client, "saved", {"vector": [1, 1, 1]})
