"""The log in pages: long-polling, cursors good and bad, and the statistics beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from server.client import Client
from server.conftest import Serve
from server.running import eventually


def test_long_poll_returns_as_soon_as_something_matches(client: Client, library: str) -> None:
    now = client.page(library_id=library)["cursor"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.page, library_id=library, after=now, wait=20)
        eventually(lambda: client.statistics()["running"], "the server to answer meanwhile")
        written = client.put(library, "a", {"text": "hello"})
        page = waiting.result(10)
    assert [event["id"] for event in page["events"]] == [written["cursor"]]
    assert page["cursor"] == written["cursor"]


def test_long_poll_that_hears_nothing_comes_back_empty_with_a_cursor_to_go_on(
    client: Client, library: str
) -> None:
    other = client.create_library()["id"]
    now = client.page(library_id=library)["cursor"]
    written = client.put(other, "a", {"text": "elsewhere"})
    page = client.page(library_id=library, after=now, wait=0.2)
    assert page["events"] == []
    assert int(page["cursor"].split(".")[1]) >= int(written["cursor"].split(".")[1])


def test_paged_reader_may_name_beginning_and_now(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "hello"})
    assert len(client.page(library_id=library, after="beginning")["events"]) == 2
    page = client.page(library_id=library, after="now")
    assert page["events"] == []
    assert page["cursor"] == client.statistics()["head"]


def test_cursor_of_another_log_is_expired_and_never_misread(client: Client) -> None:
    foreign = "zzzzzz123456.3"
    with client.events(last_id=foreign) as events:
        reset = next(events)
        assert (reset.event, reset.data["code"]) == ("reset", "cursor_expired")
        assert next(events, None) is None
    problem = client.http.get("/v1/events", params={"after": foreign})
    assert (problem.status_code, problem.json()["code"]) == (410, "cursor_expired")
    assert problem.json()["earliest"] == client.statistics()["earliest"]


@pytest.mark.parametrize("text", ["garbage", "k3f9q2", "k3f9q2.-1", "k3f9q2.1e5", "a.b", " "])
def test_what_is_no_cursor_is_refused(client: Client, text: str) -> None:
    for path in ("/v1/events", "/v1/events/stream"):
        problem = client.http.get(path, params={"after": text})
        assert (problem.status_code, problem.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("beyond_by", ["2", "0.1"])
def test_cursor_beyond_the_head_is_of_another_history(
    client: Client, library: str, beyond_by: str
) -> None:
    log_id, position = client.statistics()["head"].split(".")
    positions, _, part = beyond_by.partition(".")
    beyond = f"{log_id}.{int(position) + int(positions)}" + (part and f".{part}")
    refused = client.http.get("/v1/events", params={"after": beyond})
    assert refused.status_code == 410
    assert (refused.json()["code"], refused.json()["reason"]) == ("cursor_expired", "ahead")
    with client.events(after=beyond) as events:
        assert next(events).event == "reset"


def test_statistics_count_what_was_published_delivered_and_waits(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        before = client.statistics()
        assert before["running"] is True
        assert (before["subscriber_count"], before["total_errors"]) == (0, 0)
        with client.events(after="now") as one, client.events(after="now") as two:
            next(one), next(two)
            library = client.create_library()["id"]
            client.stream(library, ({"text": f"document {n}"} for n in range(50)))
            one.take(53), two.take(53)
            now = client.statistics()
            assert now["subscriber_count"] == 2
            assert now["total_published"] - before["total_published"] == 53
            assert now["total_delivered"] - before["total_delivered"] == 106
            assert now["pending_events"] == 0
            assert now["published_per_second"] > 0
            assert now["delivered_per_second"] > 0
            assert now["head"] == one.last_id
        eventually(lambda: client.statistics()["subscriber_count"] == 0, "both to be gone")
