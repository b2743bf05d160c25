"""The AsyncAPI description is whole, and what is really said fits it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import jsonschema
import pytest
from server.client import Client, SseParser
from server.guest import Guest
from server.running import Server
from server.socket_client import Socket

from headwater.api.socket.close import CloseCode
from headwater.api.socket.requests import ACTIONS
from headwater.model import EVENT_TYPES
from headwater.service.deltas import LIVE_EVENTS

Json = dict[str, Any]

VERBS = {"send", "receive"}


@pytest.fixture
def document(client: Client) -> Json:
    response = client.http.get("/asyncapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    described: Json = response.json()
    return described


def resolve(document: Json, ref: str) -> Json:
    found: Any = document
    assert ref.startswith("#/"), ref
    for step in ref[2:].split("/"):
        found = found[step]
    assert isinstance(found, dict)
    return found


def told_to(subscription: str, frame: Json) -> bool:
    return bool(frame.get("subscription_id") == subscription)


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref
        for child in value.values():
            yield from refs(child)
    elif isinstance(value, list):
        for child in value:
            yield from refs(child)


class Checker:
    """Whether a payload is one of the messages of a channel."""

    def __init__(self, document: Json, channel: str) -> None:
        self._validators = {
            name: jsonschema.Draft202012Validator(
                {**message["payload"], "components": document["components"]}
            )
            for name, message in document["channels"][channel]["messages"].items()
        }

    def check(self, payload: Any, name: str) -> None:
        self._validators[name].validate(payload)

    def names(self, payload: Any) -> set[str]:
        return {name for name, validator in self._validators.items() if validator.is_valid(payload)}


def test_every_reference_leads_somewhere(document: Json) -> None:
    found = list(refs(document))
    assert len(found) > 200
    for ref in found:
        resolve(document, ref)


def test_the_document_has_the_shape_of_asyncapi_3(document: Json) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    for server in document["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for name, channel in document["channels"].items():
        assert channel["address"].startswith("/v1/")
        parameters = {part[1:-1] for part in channel["address"].split("/") if part[:1] == "{"}
        assert set(channel.get("parameters", {})) == parameters, name
        for server in channel["servers"]:
            resolve(document, server["$ref"])
        assert channel["messages"]
        for message in channel["messages"].values():
            jsonschema.Draft202012Validator.check_schema(message["payload"])
    for name, operation in document["operations"].items():
        assert operation["action"] in VERBS, name
        own = operation["channel"]["$ref"] + "/messages/"
        assert operation["messages"], name
        reply = operation.get("reply", {"messages": []})
        for message in operation["messages"] + reply["messages"]:
            assert message["$ref"].startswith(own), name
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_message_belongs_to_an_operation(document: Json) -> None:
    used = {
        message["$ref"]
        for operation in document["operations"].values()
        for message in operation["messages"] + operation.get("reply", {}).get("messages", [])
    }
    there = {
        f"#/channels/{channel}/messages/{name}"
        for channel, described in document["channels"].items()
        for name in described["messages"]
    }
    assert used == there


def test_every_action_event_and_close_code_is_described_and_no_other(document: Json) -> None:
    channels, operations = document["channels"], document["operations"]
    asked = {
        name.removesuffix("_request")
        for name in channels["socket"]["messages"]
        if name.endswith("_request")
    }
    assert asked == set(ACTIONS)
    for action in ACTIONS:
        operation = operations[f"socket_{action}"]
        names = [ref["$ref"].rpartition("/")[2] for ref in operation["reply"]["messages"]]
        assert names == [f"{action}_response", "failure"]
    control = {"ready", "progress", "reset", "goodbye"}
    for channel in ("events", "library_events"):
        assert set(channels[channel]["messages"]) == set(EVENT_TYPES) | control
    assert set(channels["live"]["messages"]) == {*LIVE_EVENTS, "goodbye"}
    live = {name for name in channels["socket"]["messages"] if name.startswith("live_")}
    assert live == {f"live_{name}" for name in LIVE_EVENTS}
    for code in CloseCode:
        for channel in ("socket", "session"):
            assert str(int(code)) in channels[channel]["description"]


def test_the_parameters_of_joining_a_session_are_described(
    client: Client, document: Json, library: str
) -> None:
    query = document["channels"]["session"]["bindings"]["ws"]["query"]
    jsonschema.Draft202012Validator.check_schema(query)
    given = {"display_name": "Ann", "library": library, "colour": "teal", "client_id": "a-1"}
    assert set(query["properties"]) == set(given)
    assert query["required"] == ["display_name"]
    with Guest(client.url, "described", "Ann", library, colour="teal", client_id="a-1") as ann:
        (person,) = ann.people.values()
        assert (person["name"], person["colour"]) == ("Ann", "teal")


def test_every_example_fits_its_message(document: Json) -> None:
    seen = 0
    for name, channel in document["channels"].items():
        checker = Checker(document, name)
        for key, message in channel["messages"].items():
            for example in message.get("examples", []):
                checker.check(example["payload"], key)
                seen += 1
    assert seen == len(ACTIONS)


def test_every_frame_of_a_conversation_is_described(
    shared: Server, client: Client, document: Json
) -> None:
    library = client.create_library()["id"]
    checker = Checker(document, "socket")
    with Socket(shared.url, library) as ws:
        assert checker.names(ws.welcome) == {"welcome"}

        def check(action: str, **data: Any) -> Json:
            request = {"type": "request", "action": action, "request_id": "x", "data": data}
            checker.check(json.loads(json.dumps(request)), f"{action}_request")
            frame = ws.response(ws.send(action, data))
            del frame["parts"]
            checker.check(frame, f"{action}_response" if frame["success"] else "failure")
            found: Json = frame["data"]
            return found

        check("add", id="a", text="the sea", metadata={"year": 1})
        check("search", query="sea", explain=True, include=["vector", "distance"], highlight=True)
        check("search", query="sea", group_by="document")
        check("get", id="a", include=["vectors"])
        subscription = check("subscribe", types=["document.*"], max_unacked=5)["subscription_id"]
        clouds = check("subscribe", format="cloudevents", include=["document"])["subscription_id"]
        watch = check("watch", query="sea", k=1)["watch_id"]

        def live(*events: str) -> None:
            """Waited for after each write: what comes together is told together."""
            frames = ws.live(watch, len(events))
            assert [frame["event"] for frame in frames] == list(events)
            for frame in frames:
                checker.check(frame, f"live_{frame['event']}")

        live("snapshot", "ready")
        check("update", id="a", text="a new sea")
        live("update")
        check("add", id="b", text="the sea, the sea")
        live("leave", "enter")
        for id in (subscription, clouds):
            for _ in range(2):
                frame = ws.next(partial(told_to, id))
                checker.check(frame, "event")
                cursor = frame["event"]["id"]
        check("ack", subscription_id=subscription, cursor=cursor)
        check("delete", id="b")
        live("leave", "enter")
        check("unwatch", watch_id=watch)
        check("unsubscribe", subscription_id=subscription)
        check("ping")
        failed = ws.response(ws.send("get", {"id": "missing"}))
        del failed["parts"]
        checker.check(failed, "failure")
        ws.connection.send("{")
        assert checker.names(ws.next(lambda f: f["type"] == "error")) == {"error"}
        client.http.delete(f"/v1/libraries/{library}")
        checker.check(ws.next(lambda f: f["type"] == "error"), "error")


def test_every_event_of_a_stream_is_described(client: Client, document: Json) -> None:
    library = client.create_library()["id"]
    checker = Checker(document, "library_events")
    client.stream(library, [{"id": "a", "text": "x"}, {"id": "b", "texts": ["y", "z"]}])
    client.http.patch(f"/v1/libraries/{library}", json={"description": "d"})
    client.put(library, "a", {"text": "again"})
    client.delete(library, "b")
    with client.events(library=library, after="beginning", types="*,chunk.*") as events:
        kinds = set()
        checker.check(next(events).data, "ready")
        while "document.deleted" not in kinds:
            sent = next(events)
            checker.check(sent.data, sent.event)
            kinds.add(sent.event)
    assert len(kinds) >= 8
    parser = SseParser()
    found = client.http.get("/v1/events/stream", params={"after": "0123456789ab.1"})
    (reset,) = list(parser.feed(found.content))
    assert reset.event == "reset"
    checker.check(reset.data, "reset")


def test_every_event_of_a_live_search_is_described(client: Client, document: Json) -> None:
    library = client.create_library()["id"]
    checker = Checker(document, "live")
    client.put(library, "a", {"text": "the sea"})
    path = f"/v1/libraries/{library}/search/live"
    body = {"query": "sea", "k": 1}
    parser = SseParser()
    with client.http.stream("POST", path, json=body) as response:
        pieces = response.iter_raw()
        events = (sent for piece in pieces for sent in parser.feed(piece) if sent.event != ":")
        kinds: list[str] = []
        while kinds.count("leave") < 2:
            sent = next(events)
            kinds.append(sent.event)
            checker.check(sent.data, sent.event)
            if sent.event == "ready":
                client.put(library, "b", {"text": "sea"})
            elif sent.event == "enter" and kinds.count("enter") == 1:
                client.delete(library, "b")
    assert {"snapshot", "ready", "enter", "leave"} <= set(kinds)
