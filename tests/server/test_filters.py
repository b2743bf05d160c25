"""Filters over HTTP: listings, deletes, exports and feeds see the same documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from server.client import Client, Json
from server.conftest import Serve

YEARS: Json = {"year": {"$gte": 2020}}


def fill(client: Client, count: int = 60) -> str:
    """A library of documents d0 …, of the years 2000 to 2029 in turn."""
    library: str = client.create_library(embedder="none", dimension=2)["id"]
    documents = [
        {
            "id": f"d{n}",
            "chunks": [{"text": "a", "vector": [1, n]}] * (1 + n % 2),
            "metadata": {"year": 2000 + n % 30, "n": n},
        }
        for n in range(count)
    ]
    sent = client.stream(library, documents, response="summary")[-1]
    assert sent["created"] == count
    return library


def listed(client: Client, library: str, wanted: Json, **params: Any) -> list[list[str]]:
    """The ids of each page."""
    pages, after = [], None
    while True:
        answer = client.http.get(
            f"/v1/libraries/{library}/documents",
            params={"filter": json.dumps(wanted), **params} | ({"after": after} if after else {}),
        )
        assert answer.status_code == 200, answer.text
        pages.append([document["id"] for document in answer.json()["documents"]])
        after = answer.json()["next"]
        if after is None:
            return pages


def delete(client: Client, library: str, status: int = 200, **body: Any) -> Json:
    answer = client.http.post(f"/v1/libraries/{library}/documents/delete", json=body)
    assert answer.status_code == status, answer.text
    told: Json = answer.json()
    return told


def meeting(count: int = 60) -> set[str]:
    return {f"d{n}" for n in range(count) if n % 30 >= 20}


def test_a_filtered_listing_has_every_match_once(client: Client) -> None:
    library = fill(client)
    pages = listed(client, library, YEARS, limit=7)
    assert [len(page) for page in pages] == [7, 7, 6]
    names = [name for page in pages for name in page]
    assert len(names) == 20
    assert set(names) == meeting()
    assert listed(client, library, {"year": 1999}) == [[]]
    assert len(listed(client, library, {}, limit=60)[0]) == 60


@pytest.mark.parametrize("way", ["list", "delete", "export", "stream", "page", "twin"])
def test_a_wrong_filter_is_answered_with_its_place(client: Client, way: str) -> None:
    library: str = client.create_library()["id"]
    wrong = {"$or": [{"a": 1}, {"year": {"$gte": None}}]}
    at = f"/v1/libraries/{library}"
    if way == "delete":
        answer = client.http.post(f"{at}/documents/delete", json={"filter": wrong})
    else:
        path = {
            "list": f"{at}/documents",
            "export": f"{at}/documents/stream",
            "stream": "/v1/events/stream",
            "page": "/v1/events",
            "twin": f"{at}/events/stream",
        }[way]
        answer = client.http.get(path, params={"filter": json.dumps(wrong)})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_filter")
    assert problem["path"] == "$or[1].year.$gte"


# ── Deletes ─────────────────────────────────────────────────────────────────────────────────────


def test_delete_by_filter_takes_what_meets_it_and_tells_each(client: Client) -> None:
    library = fill(client)
    before = client.http.get("/v1/events", params={"library_id": library, "limit": 1000}).json()
    dry = delete(client, library, filter=YEARS, dry_run=True)
    assert (dry["matched"], dry["deleted"], dry["more"]) == (20, 0, False)
    first = delete(client, library, filter=YEARS, limit=15)
    assert (first["matched"], first["deleted"], first["more"]) == (15, 15, True)
    rest = delete(client, library, filter=YEARS, limit=15, after=first["next"])
    assert (rest["matched"], rest["deleted"], rest["more"], rest["next"]) == (5, 5, False, None)
    assert listed(client, library, YEARS) == [[]]
    assert len(listed(client, library, {})[0]) == 40
    told = client.http.get(
        "/v1/events",
        params={"library_id": library, "after": before["cursor"], "filter": json.dumps(YEARS)},
    ).json()["events"]
    assert {event["data"]["document_id"] for event in told} == meeting()
    assert {event["type"] for event in told} == {"document.deleted"}
    assert told[-1]["id"] == rest["cursor"]
    found = client.http.post(
        f"/v1/libraries/{library}/search", json={"vector": [1, 25], "k": 100, "exact": True}
    ).json()["results"]
    assert not meeting() & {hit["document_id"] for hit in found}


def test_delete_by_ids(client: Client) -> None:
    library = fill(client, 6)
    dry = delete(client, library, ids=["d1", "nobody", "d2", "d1"], dry_run=True)
    assert (dry["matched"], dry["deleted"]) == (2, 0)
    done = delete(client, library, ids=["d1", "nobody", "d2", "d1"])
    assert (done["matched"], done["deleted"], done["more"]) == (2, 2, False)
    assert sorted(listed(client, library, {})[0]) == ["d0", "d3", "d4", "d5"]
    assert delete(client, library, ids=[])["deleted"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"filter": {}, "ids": []}, 422, "invalid_input"),
        ({"ids": ["a"], "limit": 1}, 422, "invalid_input"),
        ({"filter": {}, "limit": 0}, 422, "invalid_input"),
        ({"filter": []}, 422, "invalid_filter"),
        ({"ids": [""]}, 422, "invalid_document"),
        ({"ids": ["a"] * 1_001}, 413, "too_many_items"),
        ({"filter": {}, "after": "x"}, 400, "invalid_cursor"),
        ({"where": {}}, 422, "unknown_field"),
    ],
)
def test_a_wrong_delete_is_refused(
    client: Client, library: str, body: Json, status: int, code: str
) -> None:
    assert delete(client, library, status, **body)["code"] == code


def test_an_empty_filter_deletes_all(client: Client) -> None:
    library = fill(client, 12)
    assert delete(client, library, filter={})["deleted"] == 12
    assert client.http.get(f"/v1/libraries/{library}").json()["documents"] == 0


# ── Exports ─────────────────────────────────────────────────────────────────────────────────────


def test_an_export_sends_what_meets_the_filter(client: Client) -> None:
    library = fill(client)
    records = client.export(library, filter=json.dumps(YEARS))
    names = [record["id"] for record in records if record["type"] == "document"]
    assert len(names) == records[-1]["documents"] == 20
    assert set(names) == meeting()


def test_a_resumed_export_tells_what_does_not_meet_the_filter_any_more(client: Client) -> None:
    library = fill(client, 30)
    wanted = json.dumps(YEARS)
    records = client.export(library, filter=wanted)
    after = [record for record in records if record["type"] == "checkpoint"][-1]["after"]
    at = f"/v1/libraries/{library}/documents"
    client.http.patch(f"{at}/d21", json={"metadata": {"year": 1990}})
    client.http.patch(f"{at}/d1", json={"metadata": {"year": 2024}})
    client.http.patch(f"{at}/d22", json={"metadata": {"year": 1991}})
    client.delete(library, "d22")
    client.put(library, "new", {"chunks": [{"vector": [1, 1]}], "metadata": {"year": 2023}})
    client.put(library, "old", {"chunks": [{"vector": [1, 1]}], "metadata": {"year": 1923}})
    told = [
        (record["type"], record.get("id"))
        for record in client.export(library, filter=wanted, after=after)
        if record["type"] != "checkpoint"
    ]
    assert sorted(told[:-1]) == [
        ("deleted", "d22"),
        ("document", "d1"),
        ("document", "new"),
        ("unmatched", "d21"),
    ]


def test_a_following_export_tells_what_comes_into_the_filter_and_leaves_it(client: Client) -> None:
    library = fill(client, 30)
    at = f"/v1/libraries/{library}/documents"
    params = {"filter": json.dumps(YEARS), "follow": "true"}
    with client.http.stream("GET", f"{at}/stream", params=params) as response:
        lines = response.iter_lines()
        held = set()
        for line in lines:
            record = json.loads(line)
            if record["type"] == "document":
                held.add(record["id"])
            if record["type"] == "summary":
                break
        assert held == meeting(30)
        with Client(client.url) as writer:
            writer.http.patch(f"{at}/d21", json={"metadata": {"year": 1990}})
            writer.http.patch(f"{at}/d2", json={"metadata": {"other": 1}})
            writer.http.patch(f"{at}/d1", json={"metadata": {"year": 2024}})
            writer.delete(library, "d3")
            writer.delete(library, "d22")
        told = []
        for line in lines:
            record = json.loads(line)
            if record["type"] == "unmatched":
                told.append(("unmatched", record["id"]))
            elif record["type"] == "change":
                event = record["event"]
                told.append((event["type"], event["data"]["document_id"]))
            if len(told) == 4:
                break
    assert told == [
        ("unmatched", "d21"),
        ("unmatched", "d2"),
        ("document.updated", "d1"),
        ("document.deleted", "d22"),
    ]


# ── Feeds ───────────────────────────────────────────────────────────────────────────────────────


def test_a_filtered_feed_hears_documents_that_meet_it(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=2)["id"]
    chunks = [{"vector": [1, 1]}]
    with client.events(library=library, filter=json.dumps(YEARS)) as events:
        events.until("ready")
        with Client(client.url) as writer:
            for year in (1999, 2021):
                document = {"chunks": chunks, "metadata": {"year": year}}
                writer.put(library, f"y{year}", document)
            writer.delete(library, "y1999")
            writer.delete(library, "y2021")
        told = [(event["type"], event["data"]["document_id"]) for event in events.take(2)]
    assert told == [("document.added", "y2021"), ("document.deleted", "y2021")]


# ── Searches ────────────────────────────────────────────────────────────────────────────────────


def test_the_metadata_view_is_kept_over_a_restart(serve: Serve, tmp_path: Path) -> None:
    wanted: Json = {"vector": [1, 25], "k": 100, "filter": YEARS}
    server = serve()
    with Client(server.url) as client:
        library = fill(client)
        before = client.search(library, **wanted)["results"]
    assert {hit["document_id"] for hit in before} == meeting()
    server.stop()
    assert [file.stem for file in (tmp_path / "data" / "metadata").iterdir()] == [library]
    server = serve()
    with Client(server.url) as client:
        assert client.search(library, **wanted)["results"] == before
        client.http.patch(
            f"/v1/libraries/{library}/documents/d25", json={"metadata": {"year": None}}
        )
        after = client.search(library, **wanted)["results"]
    assert {hit["document_id"] for hit in after} == meeting() - {"d25"}
