"""Results come while the client still sends: a stream is a conversation, not a letter."""

from __future__ import annotations

import json

from server.client import Client, ndjson
from server.conversation import Conversation
from server.running import Server


def stream_path(library: str) -> str:
    return f"/v1/libraries/{library}/documents/stream"


def test_first_result_arrives_while_the_client_is_still_sending(
    shared: Server, library: str
) -> None:
    with Conversation(shared.url, "POST", stream_path(library), chunked=True) as talk:
        for number in range(5):
            talk.send(ndjson([{"id": f"slow-{number}", "text": f"line {number}"}]))
            result = json.loads(talk.read_line() or b"")
            assert (result["type"], result["id"]) == ("result", f"slow-{number}")
            assert result["line"] == number + 1
            checkpoint = json.loads(talk.read_line() or b"")
            assert checkpoint["durable_through_line"] == number + 1
        talk.end()
        (summary,) = talk.records()
        assert (summary["type"], summary["created"]) == ("summary", 5)


def test_what_a_slow_sender_was_told_of_can_be_found_before_it_ends(
    shared: Server, client: Client, library: str
) -> None:
    with Conversation(shared.url, "POST", stream_path(library), chunked=True) as talk:
        talk.send(ndjson([{"id": "early", "text": "a lighthouse on the cliff"}]))
        result = json.loads(talk.read_line() or b"")
        found = client.search(library, "lighthouse", min_cursor=result["cursor"])
        assert [hit["document_id"] for hit in found["results"]] == ["early"]
        talk.end()


def test_a_line_sent_byte_by_byte_gets_its_result(shared: Server, library: str) -> None:
    line = ndjson([{"id": "bytes-ä", "text": "größer als gedacht"}])
    with Conversation(shared.url, "POST", stream_path(library), chunked=True) as talk:
        for byte in line:
            talk.send(bytes([byte]))
        assert json.loads(talk.read_line() or b"")["id"] == "bytes-ä"
        talk.end()


def test_client_that_expects_100_continue_is_told_to_go_on(shared: Server, library: str) -> None:
    headers = {"expect": "100-continue", "content-type": "application/x-ndjson"}
    with Conversation(shared.url, "POST", stream_path(library), headers, chunked=True) as talk:
        assert talk.read_head() == 100
        talk.send(ndjson([{"id": "polite", "text": "after you"}]))
        assert talk.read_head() == 200
        assert json.loads(talk.read_line() or b"")["id"] == "polite"
        talk.end()
        assert [record["type"] for record in talk.records()] == ["checkpoint", "summary"]


def test_client_that_expects_100_continue_hears_of_an_error_before_it_sends(
    shared: Server,
) -> None:
    headers = {"expect": "100-continue"}
    path = stream_path("no-such-library")
    with Conversation(shared.url, "POST", path, headers, chunked=True) as talk:
        assert talk.read_head() == 404
        assert json.loads(talk.read_line() or b"")["code"] == "library_not_found"


def test_body_of_known_length_is_answered_before_it_is_complete(
    shared: Server, library: str
) -> None:
    lines = [ndjson([{"id": f"known-{n}", "text": "of a known length"}]) for n in range(2)]
    headers = {"content-length": str(sum(map(len, lines)))}
    with Conversation(shared.url, "POST", stream_path(library), headers) as talk:
        talk.send(lines[0])
        assert json.loads(talk.read_line() or b"")["id"] == "known-0"
        talk.send(lines[1])
        assert [r.get("id") for r in talk.records() if r["type"] == "result"] == ["known-1"]
