"""Several server processes on one data folder: one log, heard and searched through any of them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import invariants
import psutil
import pytest
from server.client import Client, Json
from server.pump import Pump
from server.running import Server, eventually

Serve = Callable[..., Server]

TOLD = "document.*,batch.*"
TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}


def documents(prefix: str, count: int) -> Iterator[Json]:
    for number in range(count):
        yield {"id": f"{prefix}-{number}", "chunks": [{"vector": [1, number], "text": prefix}]}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    """Clients of two servers of their own ports on one folder."""
    data = tmp_path_factory.mktemp("pair") / "data"
    with Server(data) as one, Server(data) as two, Client(one.url) as a, Client(two.url) as b:
        yield a, b


@pytest.mark.parametrize("turned", [False, True])
def test_write_through_one_server_is_heard_and_found_through_the_other(
    pair: tuple[Client, Client], turned: bool
) -> None:
    writer, other = reversed(pair) if turned else pair
    library = writer.create_library()["id"]
    # The other may not have heard yet that the library was created.
    with other.events(library=library, types="document.*") as events:
        next(events)
        for number in range(20):
            text = f"the {number}th lighthouse"
            written = writer.put(library, f"d{number}", {"text": text})
            (heard,) = events.take(1)
            assert (heard["id"], heard["data"]["document_id"]) == (written["cursor"], f"d{number}")
            found = other.search(library, text, k=50, min_cursor=written["cursor"])
            assert f"d{number}" in [hit["document_id"] for hit in found["results"]]
        gone = writer.delete(library, "d7")
        found = other.search(library, "lighthouse", k=50, min_cursor=gone["cursor"])
        assert len(found["results"]) == 19
        assert "d7" not in [hit["document_id"] for hit in found["results"]]


def test_update_through_one_server_replaces_what_the_other_finds(
    pair: tuple[Client, Client],
) -> None:
    one, two = pair
    library = one.create_library()["id"]
    for turn, (writer, other) in enumerate([(one, two), (two, one)] * 5):
        written = writer.put(library, "same", {"text": f"turn {turn}"})
        assert written["version"] == turn + 1
        (hit,) = other.search(library, "turn", min_cursor=written["cursor"])["results"]
        assert hit["text"] == f"turn {turn}"
        assert other.get(library, "same", include="chunks") == writer.get(
            library, "same", include="chunks"
        )


def test_library_made_and_deleted_through_one_server_is_known_to_the_other(
    pair: tuple[Client, Client],
) -> None:
    one, two = pair
    for writer, other in (pair, (two, one)):
        library = writer.create_library("passing", **TWO_D)
        other.put("passing", "a", {"chunks": [{"vector": [1, 2]}]})
        assert writer.get("passing", "a") is not None
        writer.http.delete(f"/v1/libraries/{library['id']}")
        assert other.http.get("/v1/libraries/passing").status_code == 404
        problem = other.http.post(
            "/v1/libraries/passing/search", json={"vector": [1, 2], "k": 1}
        ).json()
        assert problem["code"] == "library_not_found"


def test_listeners_of_both_servers_hear_one_order_while_both_write(
    pair: tuple[Client, Client],
) -> None:
    count = 3000
    library = pair[0].create_library(**TWO_D)["id"]
    start = pair[0].statistics()["head"]

    def listen(client: Client) -> list[Json]:
        heard: list[Json] = []
        ended = 0
        with client.events(library=library, after=start, types=TOLD) as events:
            while ended < 2:
                heard += events.take(1)
                ended += heard[-1]["type"] == "batch.completed"
        return heard

    def put(client: Client, prefix: str) -> None:
        for number in range(60):
            client.put(library, f"{prefix}-{number}", {"chunks": [{"vector": [number, 1]}]})

    with ThreadPoolExecutor(6) as pool:
        listening = [pool.submit(listen, client) for client in pair for _ in range(2)]
        pumps = [
            Pump(client.url, library, documents(prefix, count))
            for client, prefix in zip(pair, ("left", "right"), strict=True)
        ]
        singles = [
            pool.submit(put, client, prefix)
            for client, prefix in zip(pair, ("one", "two"), strict=True)
        ]
        for pump in pumps:
            pump.join()
            assert pump.summary is not None
            assert pump.summary["created"] == count
        for single in singles:
            single.result(60)
        stories = [future.result(60) for future in listening]

    whole = pair[1].all_events(library_id=library, after=start, types=TOLD)
    assert len(whole) == 2 * count + 2 * 60 + 4
    ends = [len(story) for story in stories]
    assert [whole[:end] for end in ends] == stories
    invariants.events_rise(whole)
    for prefix, number in (("left", count), ("right", count), ("one", 60), ("two", 60)):
        ids = [
            event["data"]["document_id"]
            for event in whole
            if event["data"].get("document_id", "").startswith(f"{prefix}-")
        ]
        assert ids == [f"{prefix}-{n}" for n in range(number)], "sent in order, told in order"
    for client in pair:
        invariants.log_tells_what_is_there(client, library)
        invariants.every_document_is_found(client, library, {"vector": [1, 1]})


def test_follow_export_of_one_server_goes_on_with_writes_of_the_other(
    pair: tuple[Client, Client],
) -> None:
    one, two = pair
    library = one.create_library(**TWO_D)["id"]
    one.stream(library, documents("before", 50))
    path = f"/v1/libraries/{library}/documents/stream"
    with one.http.stream("GET", path, params={"follow": "true"}) as response:
        records = (json.loads(line) for line in response.iter_lines())
        snapshot = list(itertools.takewhile(lambda record: record["type"] != "summary", records))
        assert sum(record["type"] == "document" for record in snapshot) == 50
        for number in range(20):
            written = two.put(library, f"after-{number}", {"chunks": [{"vector": [1, 1]}]})
            change = next(record for record in records if record["type"] == "change")
            assert change["event"]["id"] == written["cursor"]
            assert change["event"]["document"]["id"] == f"after-{number}"


def test_workers_of_one_server_serve_one_log(serve: Serve) -> None:
    server = serve(workers=2)
    assert len([p for p in server.workers() if is_worker(p)]) == 2
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        start = client.statistics()["head"]
        # Each event stream is a connection of its own; the kernel spreads them over the workers.
        streams = [client.events(library=library, after=start) for _ in range(8)]
        for number in range(50):
            # A new connection for each write, so that both workers write.
            with Client(server.url) as writer:
                written = writer.put(library, f"d{number}", {"chunks": [{"vector": [1, number]}]})
            with Client(server.url) as reader:
                found = reader.search(
                    library, vector=[1, number], k=1, exact=True, min_cursor=written["cursor"]
                )
            assert found["results"][0]["document_id"] == f"d{number}"
        stories = [events.take(50) for events in streams]
        for events in streams:
            events.close()
        assert all(story == stories[0] for story in stories)
        assert [e["data"]["document_id"] for e in stories[0]] == [f"d{n}" for n in range(50)]
        took = server.stop()
    assert took < 8
    invariants.folder_is_sound(server.data)


def test_killed_worker_is_replaced_and_loses_nothing_acknowledged(serve: Serve) -> None:
    server = serve(workers=2)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        acknowledged: list[str] = []
        for turn in range(2):
            for number in range(30):
                id = f"d{turn}-{number}"
                with Client(server.url) as writer:
                    writer.put(library, id, {"chunks": [{"vector": [turn, number + 1]}]})
                acknowledged.append(id)
            before = {p.pid for p in server.workers() if is_worker(p)}
            os.kill(min(before), signal.SIGKILL)

            def replaced(before: set[int] = before) -> bool:
                now = {process.pid for process in server.workers() if is_worker(process)}
                return len(now - before) == 1

            eventually(replaced, "a worker in its place", said=server.said)
            server.wait_ready()
        with Client(server.url) as reader:
            invariants.acknowledged_is_there(reader, library, acknowledged)
            invariants.log_tells_what_is_there(reader, library)
            invariants.every_document_is_found(reader, library, {"vector": [1, 1]})
        server.stop()
    invariants.folder_is_sound(server.data)


def test_worker_that_dies_before_it_answers_its_parent_is_replaced_at_once(serve: Serve) -> None:
    server = serve(workers=2)
    before = {p.pid for p in server.workers() if is_worker(p)}
    os.kill(min(before), signal.SIGSTOP)
    time.sleep(1.5)  # each half second the parent asks, and then waits for this one
    os.kill(min(before), signal.SIGKILL)

    def replaced() -> bool:
        now = {process.pid for process in server.workers() if is_worker(process)}
        return len(now - before) == 1

    eventually(replaced, "a worker in its place", 15, said=server.said)
    server.wait_ready()
    server.stop()


def test_killing_the_keeper_leaves_the_other_server_whole(tmp_path: Path, serve: Serve) -> None:
    keeper = serve()
    other = serve()
    with Client(keeper.url) as one, Client(other.url) as two:
        library = one.create_library(**TWO_D)["id"]
        with two.events(library=library, types="document.*") as events:
            start = next(events).data["cursor"]
            with (
                Pump(keeper.url, library, documents("keeper", 8_000), hold=True) as pump,
                Pump(other.url, library, documents("other", 1_500)) as steady,
            ):
                heard = events.take(500)
                keeper.kill()
                pump.finish()
                pump.join()
                steady.join()
            assert pump.cut
            assert steady.summary is not None
            assert steady.summary["created"] == 1_500
            last = two.put(library, "last", {"chunks": [{"vector": [1, 1]}]})
            while heard[-1]["id"] != last["cursor"]:
                heard += events.take(1)
        assert heard == two.all_events(library_id=library, types="document.*", after=start)
        invariants.acknowledged_is_there(two, library, pump.promised | steady.promised)
        invariants.log_tells_what_is_there(two, library)
        invariants.every_document_is_found(two, library, {"vector": [1, 1]})

        keeper.start()
        written = one.put(library, "again", {"chunks": [{"vector": [3, 1]}]})
        found = two.search(library, vector=[3, 1], k=1, exact=True, min_cursor=written["cursor"])
        assert found["results"][0]["document_id"] in ("again", "keeper-3", "other-3")
        invariants.batches_are_ended(one)
        keeper.stop()
        other.stop()
    invariants.folder_is_sound(keeper.data)


def test_keeper_that_starts_fails_no_batch_that_runs_in_another_server(serve: Serve) -> None:
    keeper = serve()
    other = serve()
    with Client(other.url) as client:
        library = client.create_library(**TWO_D)["id"]
        with Pump(other.url, library, itertools.repeat({"id": "x", "text": "y"})) as pump:
            eventually(lambda: pump.records, "the batch to have begun")
            keeper.stop()
            keeper.start()
            pump.finish()
            pump.join()
        assert pump.summary is not None
        invariants.batches_are_ended(client)
        kinds = [event["type"] for event in client.all_events(types="batch.*")]
        assert kinds == ["batch.started", "batch.completed"]


def is_worker(process: Any) -> bool:
    """A serving process, as against Python's helper that tracks shared resources."""
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
