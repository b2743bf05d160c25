"""The ingest stream: a result per line, whatever the line, and the batch's two events."""

from __future__ import annotations

from collections import Counter

from server.client import Client, answer
from server.streams import SUMMARY, counts, results


def test_every_line_has_its_result_in_order(client: Client, library: str) -> None:
    records = client.stream(
        library, [{"id": f"d{n}", "texts": ["x"] * (n % 3 + 1)} for n in range(1_500)]
    )
    found = results(records)
    assert [record["line"] for record in found] == list(range(1, 1_501))
    assert [record["id"] for record in found] == [f"d{n}" for n in range(1_500)]
    assert {record["status"] for record in found} == {"created"}
    assert [record["chunks"] for record in found] == [n % 3 + 1 for n in range(1_500)]
    assert set(found[0]) == {"type", "line", "id", "status", "chunks", "cursor"}
    positions = [int(record["cursor"].split(".")[1]) for record in found]
    assert positions == sorted(set(positions))

    # A checkpoint never speaks of a line whose result did not come before it.
    told = 0
    for record in records:
        if record["type"] == "result":
            told = record["line"]
        elif record["type"] == "checkpoint":
            assert set(record) == {"type", "durable_through_line", "cursor"}
            assert record["durable_through_line"] == told
    assert told == 1_500
    assert len([record for record in records if record["type"] == "checkpoint"]) >= 3

    summary = records[-1]
    assert set(summary) == SUMMARY
    assert counts(summary) == (1_500, 1_500, 0, 0, 0)
    assert summary["searchable"] is True
    assert client.search(library, "x", k=1)["results"]


def test_the_batch_is_told_before_during_and_after(client: Client, library: str) -> None:
    records = client.stream(library, [{"id": f"d{n}", "text": "x"} for n in range(3)] + [{}])
    batch_id = records[-1]["batch_id"]
    events = client.all_events(library_id=library)[1:]
    assert [event["type"] for event in events] == [
        "batch.started",
        "document.added",
        "document.added",
        "document.added",
        "batch.completed",
    ]
    assert all(event["data"]["batch_id"] == batch_id for event in events)
    assert events[-1]["id"] == records[-1]["cursor"]
    data = events[-1]["data"]
    assert (data["received"], data["created"], data["failed"]) == (4, 3, 1)
    added = events[1]["data"]
    assert {"document_id", "title", "num_chunks", "version", "metadata", "batch_id"} <= set(added)


def test_a_batch_may_have_the_clients_own_name(client: Client, library: str) -> None:
    records = client.stream(library, [{"text": "x"}], batch_id="nächtlich 1")
    assert records[-1]["batch_id"] == "nächtlich 1"
    (event,) = client.all_events(library_id=library, types="batch.completed")
    assert event["data"]["batch_id"] == "nächtlich 1"
    for wrong in ("", "x" * 129):
        path = f"/v1/libraries/{library}/documents/stream"
        response = client.http.post(path, params={"batch_id": wrong})
        assert response.status_code == 422


def test_an_empty_body_is_a_summary_of_zeros_and_no_event(client: Client, library: str) -> None:
    before = client.all_events(library_id=library)
    for body in (b"", b"\n", b"\xef\xbb\xbf", b" \r\n\t\n", b"\xef\xbb\xbf\r\n"):
        (summary,) = client.stream_raw(library, body)
        assert counts(summary) == (0, 0, 0, 0, 0)
        assert summary["batch_id"] is None
        assert summary["cursor"]
        assert summary["searchable"] is True
    assert client.all_events(library_id=library) == before


def test_the_same_stream_again_is_unchanged(client: Client, library: str) -> None:
    documents = [{"id": f"d{n}", "text": f"text {n}", "metadata": {"n": n}} for n in range(600)]
    first = results(client.stream(library, documents))
    again = client.stream(library, documents)
    assert counts(again[-1]) == (600, 0, 0, 600, 0)
    assert [r["cursor"] for r in results(again)] == [r["cursor"] for r in first]
    documents[7]["text"] = "other"
    documents[8]["title"] = "new"
    documents.append({"id": "d600", "text": "x"})
    third = client.stream(library, documents)
    assert counts(third[-1]) == (601, 1, 2, 598, 0)
    told = Counter(event["type"] for event in client.all_events(library_id=library))
    assert told["document.added"] == 601
    assert told["document.updated"] == 2


def test_duplicates_are_applied_in_order(client: Client, library: str) -> None:
    documents = [{"id": "a", "text": text} for text in ("1", "2", "2", "1")]
    documents += [{"id": f"f{n}", "text": "filler"} for n in range(600)]  # another group
    documents += [{"id": "a", "text": "1"}, {"id": "a", "text": "3"}]
    records = client.stream(library, documents)
    mine = [record["status"] for record in results(records) if record["id"] == "a"]
    assert mine == ["created", "updated", "unchanged", "updated", "unchanged", "updated"]
    found = client.get(library, "a")
    assert found is not None
    assert (found["text"], found["version"]) == ("3", 4)
    assert [hit["text"] for hit in client.search(library, "3", k=1_000)["results"]].count("3") == 1
    figures = answer(client.http.get(f"/v1/libraries/{library}"))
    assert (figures["documents"], figures["chunks"]) == (601, 601)


def test_response_errors_leaves_out_the_good_ones(client: Client, library: str) -> None:
    body = b'{"id":"a","text":"x"}\n{"id":"b"}\n{"id":"c","text":"x"}\n'
    records = client.stream_raw(library, body, response="errors")
    assert [record["type"] for record in records] == ["result", "checkpoint", "summary"]
    assert (records[0]["line"], records[0]["id"], records[0]["status"]) == (2, "b", "failed")
    assert records[1]["durable_through_line"] == 3
    assert counts(records[2]) == (3, 2, 0, 0, 1)


def test_response_summary_is_one_line(client: Client, library: str) -> None:
    body = b'{"id":"a","text":"x"}\n{"id":"b"}\n'
    (summary,) = client.stream_raw(library, body, response="summary")
    assert counts(summary) == (2, 1, 0, 0, 1)
    path = f"/v1/libraries/{library}/documents/stream"
    response = client.http.post(path, params={"response": "all"})
    assert (response.status_code, response.json()["parameter"]) == (422, "response")


def test_wait_durable_does_not_claim_to_be_searchable(client: Client, library: str) -> None:
    summary = client.stream(library, [{"id": "a", "text": "x"}], wait="durable")[-1]
    assert summary["searchable"] is False
    found = client.search(library, "x", min_cursor=summary["cursor"])
    assert [hit["document_id"] for hit in found["results"]] == ["a"]


def test_checkpoints_of_failed_lines_name_a_real_position(client: Client, library: str) -> None:
    records = client.stream_raw(library, b"bad\n")
    (checkpoint,) = [record for record in records if record["type"] == "checkpoint"]
    assert int(checkpoint["cursor"].split(".")[1]) > 0
    assert checkpoint["durable_through_line"] == 1
    assert counts(records[-1]) == (1, 0, 0, 0, 1)
