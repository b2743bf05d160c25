"""Alerts on real servers: kept, heard by every feed, each match once whoever dies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import invariants
import pytest
from server.client import Client, Json
from server.live_client import TWO_D, at, document
from server.running import Server, eventually

Serve = Callable[..., Server]


@pytest.fixture
def library(client: Client) -> str:
    id: str = client.create_library(**TWO_D)["id"]
    return id


def test_an_alert_tells_its_matches_to_every_feed(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/alerts"
    client.put(library, "before", document(0))
    made = client.http.post(
        path,
        json={
            "name": "east",
            "vector": at(0),
            "score_threshold": 0.9,
            "filter": {"loud": True},
            "metadata": {"team": "blue"},
        },
    )
    assert made.status_code == 201
    assert made.headers["location"].endswith(made.json()["id"])
    alert = made.json()
    with client.events(library=library, types="alert.*", filter='{"team":"blue"}') as events:
        next(events)
        client.put(library, "near", document(0.1, loud=True))
        client.put(library, "quiet", document(0.1))
        client.put(library, "far", document(2, loud=True))
        client.put(library, "near", document(0.2, loud=True))
        first, second = events.take(2)
    assert first["type"] == "alert.matched"
    assert first["data"]["alert_id"] == alert["id"]
    assert first["data"]["document_id"] == "near"
    assert first["data"]["chunk_id"] == "near#0"
    assert first["data"]["score"] == pytest.approx(math.cos(0.1))
    assert (first["data"]["version"], second["data"]["version"]) == (1, 2)
    assert first["data"]["metadata"] == {"team": "blue"}

    listed = client.http.get(path, params={"include": "vector"}).json()
    assert [one["id"] for one in listed["alerts"]] == [alert["id"]]
    assert listed["alerts"][0]["vector"] == [1.0, 0.0]
    changed = client.http.patch(f"{path}/{alert['id']}", json={"score_threshold": -1}).json()
    assert (changed["score_threshold"], changed["version"]) == (-1, 2)
    assert client.http.delete(f"{path}/{alert['id']}").status_code == 200
    gone = client.http.get(f"{path}/{alert['id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, "alert_not_found")


def test_alerts_are_listed_by_page(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/alerts"
    for number in range(5):
        client.http.post(
            path, json={"vector": at(number), "score_threshold": 0.5, "name": f"{number}"}
        )
    names, after = [], None
    while True:
        page = client.http.get(path, params={"limit": 2, **({"after": after} if after else {})})
        names += [alert["name"] for alert in page.json()["alerts"]]
        after = page.json()["next"]
        if after is None:
            break
    assert names == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("place", ["alerts.before_write:2", "alerts.after_write:2"])
def test_killed_while_matching_it_tells_each_match_once(serve: Serve, place: str) -> None:
    server = serve(live__step_rows=1)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        path = f"/v1/libraries/{library}/alerts"
        for number in range(3):
            client.http.post(path, json={"vector": at(number), "score_threshold": 0.0})
    server.stop()
    server.failpoints = place
    server.start()
    angles = [0.4 * number for number in range(30)]
    with Client(server.url) as client:
        stored = set()
        for number, angle in enumerate(angles):
            try:
                client.put(library, f"d{number}", document(angle), wait="durable")
                stored.add(number)
            except Exception:  # noqa: BLE001 - the server is killed in the middle
                break
        server.wait_killed()
    server.start()
    with Client(server.url) as client:
        for number, angle in enumerate(angles):
            if number not in stored:
                client.put(library, f"d{number}", document(angle))
        wanted = sum(math.cos(angle - number) >= 0 for angle in angles for number in range(3))

        def told() -> list[Json]:
            return client.all_events(library_id=library, types="alert.matched")

        eventually(lambda: len(told()) >= wanted, "all matches to be told")
        client.put(library, "last", document(0))
        last = {0, 1}  # those it is near enough to
        eventually(lambda: len(told()) >= wanted + len(last), "the last to be told")
        keys = [
            (event["data"]["alert_id"], event["data"]["document_id"], event["data"]["version"])
            for event in told()
        ]
        assert len(keys) == len(set(keys)) == wanted + len(last)
        invariants.events_rise(client.all_events())


def test_the_next_keeper_goes_on_with_the_alerts(tmp_path: Any) -> None:
    data = tmp_path / "data"
    one = Server(data).start()
    try:
        with Server(data) as two, Client(two.url) as client:
            library = client.create_library(**TWO_D)["id"]
            client.http.post(
                f"/v1/libraries/{library}/alerts", json={"vector": at(0), "score_threshold": 0.5}
            )
            numbers = itertools.count()
            with client.events(library=library, types="alert.matched") as events:
                next(events)
                client.put(library, f"d{next(numbers)}", document(0))
                assert events.take(1)[0]["data"]["document_id"] == "d0"
                one.kill()
                client.put(library, f"d{next(numbers)}", document(0))
                assert events.take(1)[0]["data"]["document_id"] == "d1"
    finally:
        one.close()
