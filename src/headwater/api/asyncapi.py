"""`/asyncapi.json`: what is said on WebSockets and event streams, as AsyncAPI 3.0.

Made from the structs that frames are parsed and encoded with, and from the lists of actions and
event types: what is not there is not said. Written from the server's side, as AsyncAPI has it:
`receive` is what clients send.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from headwater.api import wire
from headwater.api.live_events import LIVE_DATA, CursorData, ResetData
from headwater.api.socket import frames, requests, session_frames
from headwater.api.socket.close import MEANINGS
from headwater.model import EVENT_TYPES
from headwater.service.sessions import LONGEST_DISPLAY_NAME

Json = dict[str, Any]

_SCHEMA = "#/components/schemas/{name}"
_LIBRARY = {"description": "The library's id, or its unique name."}
_JOINING: Json = {
    "type": "object",
    "properties": {
        "display_name": {
            "type": "string",
            "minLength": 1,
            "maxLength": LONGEST_DISPLAY_NAME,
            "description": "What the others see.",
        },
        "library": {
            "type": "string",
            "description": "A name or id; needed by the first one who joins.",
        },
        "colour": {"type": "string", "description": "As in CSS: `#c0392b`, `teal`."},
        "client_id": {
            "type": "string",
            "description": "What a client calls itself over several connections: the next takes "
            "the place of the one before.",
        },
    },
    "required": ["display_name"],
}
_EXAMPLES: dict[str, Json] = {
    "search": {"query": "what moves the sea?", "k": 3, "filter": {"year": {"$gte": 2020}}},
    "add": {"id": "note-1", "title": "Tides", "text": "The moon pulls the sea."},
    "update": {"id": "note-1", "metadata": {"year": 2026}},
    "delete": {"id": "note-1"},
    "get": {"id": "note-1", "include": ["chunks"]},
    "subscribe": {"types": "document.*", "after": "k3f9q2.88123"},
    "unsubscribe": {"subscription_id": "subscription-1"},
    "watch": {"query": "what moves the sea?", "k": 3},
    "unwatch": {"watch_id": "watch-1"},
    "ack": {"subscription_id": "subscription-1", "cursor": "k3f9q2.88124"},
    "ping": {},
}


class EventJson(msgspec.Struct, omit_defaults=True):
    """A change of the log. `id` is the cursor to resume after it; docs/streams.md has each `data`.

    `document` is there when `include` asked for it: its latest state, null when it is gone.
    """

    id: str
    type: str
    library_id: str | None
    timestamp: str
    data: dict[str, Any]
    document: dict[str, Any] | None = None


class CloudEventJson(msgspec.Struct):
    """The same as CloudEvents 1.0 has it, for those who asked for that format."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    time: str
    subject: str
    datacontenttype: str
    data: dict[str, Any]


class GoodbyeData(msgspec.Struct):
    """The server ends the stream; connect again with the last id."""

    cursor: str
    reason: Literal["stopping", "max_age"]


def asyncapi_routes(version: str) -> APIRouter:
    router = APIRouter()
    body = wire.encode(document(version))

    @router.get("/asyncapi.json", include_in_schema=False)
    async def asyncapi() -> Response:
        return Response(body, media_type="application/json")

    return router


def document(version: str) -> Json:
    """The whole description."""
    structs: list[type[msgspec.Struct]] = [
        frames.RequestFrame,
        *frames.SENT,
        session_frames.MessageFrame,
        *session_frames.SESSION_SENT,
        EventJson,
        CloudEventJson,
        GoodbyeData,
        *LIVE_DATA.values(),
    ]
    for actions in (requests.ACTIONS, session_frames.SESSION_ACTIONS):
        structs += [struct for pair in actions.values() for struct in pair]
    _, schemas = msgspec.json.schema_components(list(dict.fromkeys(structs)), ref_template=_SCHEMA)
    socket = _Socket("socket", requests.ACTIONS, frames.SENT, _EXAMPLES)
    session = _Socket("session", session_frames.SESSION_ACTIONS, session_frames.SESSION_SENT, {})
    session.receives("message", session_frames.MessageFrame)
    events = _event_messages()
    live: dict[str, Json] = {
        name: _message(name, {"$ref": _ref(kind)}) for name, kind in LIVE_DATA.items()
    }
    live["goodbye"] = _message("goodbye", {"$ref": _ref(GoodbyeData)})
    channels = {
        "socket": _channel(
            "/v1/libraries/{library}/ws",
            "One library over one connection: requests, subscriptions, live queries. Subprotocol "
            f"`{frames.SUBPROTOCOL}`. Closed with one of: {_codes()}.",
            "ws",
            socket.messages,
        ),
        "session": _channel(
            "/v1/sessions/{name}",
            f"A search shared by several people. Subprotocol `{frames.SUBPROTOCOL}`, or none. "
            f"Closed with one of: {_codes()}.",
            "ws",
            session.messages,
            parameters={"name": {"description": "The session's name."}},
            query=_JOINING,
        ),
        "events": _channel(
            "/v1/events/stream", "Every change, as server-sent events.", "http", events
        ),
        "library_events": _channel(
            "/v1/libraries/{library}/events/stream",
            "Every change of one library, as server-sent events.",
            "http",
            events,
        ),
        "live": _channel(
            "/v1/libraries/{library}/search/live",
            "A search that stays open, as server-sent events.",
            "http",
            live,
        ),
    }
    operations = {**socket.operations, **session.operations}
    for name in ("events", "library_events", "live"):
        operations[f"{name}_stream"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": channels[name]["description"],
            "bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}},
            "messages": _refs(name, channels[name]["messages"]),
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headwater",
            "version": version,
            "description": (
                "WebSockets and event streams of a real-time vector search server. Everything "
                "that is one request and one answer is in /openapi.json."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            protocol: {
                "host": "{host}:{port}",
                "protocol": protocol,
                "variables": {
                    "host": {"default": "127.0.0.1", "description": "Where the server listens."},
                    "port": {"default": "8000", "description": "`HEADWATER_PORT`."},
                },
            }
            for protocol in ("ws", "http")
        },
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
    }


class _Socket:
    """The messages and operations of a channel that speaks both ways."""

    def __init__(
        self,
        channel: str,
        actions: Mapping[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]],
        sent: Iterable[type[msgspec.Struct]],
        examples: Mapping[str, Json],
    ) -> None:
        self._channel = channel
        self.messages: dict[str, Json] = {}
        self.operations: dict[str, Json] = {}
        told: list[str] = []
        for struct in sent:
            if struct is frames.ResponseFrame:
                continue  # one message for each action
            for name, payload in _payloads(struct):
                self.messages[name] = _message(name, payload)
                if struct is not frames.FailureFrame:
                    told.append(name)
        self.operations[f"{channel}_tell"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": "What the server says without being asked in that moment.",
            "messages": _refs(channel, told),
        }
        for action, (data, answer) in actions.items():
            self._add_action(action, data, answer, examples.get(action))

    def receives(self, name: str, struct: type[msgspec.Struct]) -> None:
        """A message of clients that is no request."""
        key = f"{name}_sent"
        self.messages[key] = _message(key, {"$ref": _ref(struct)})
        self.operations[f"{self._channel}_{name}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{self._channel}"},
            "messages": _refs(self._channel, [key]),
        }

    def _add_action(
        self,
        action: str,
        data: type[msgspec.Struct],
        answer: type[msgspec.Struct],
        example: Json | None,
    ) -> None:
        asked, answered = f"{action}_request", f"{action}_response"
        needs_data = any(field.required for field in msgspec.structs.fields(data))
        self.messages[asked] = _message(
            asked,
            {
                "allOf": [
                    {"$ref": _ref(frames.RequestFrame)},
                    {
                        "type": "object",
                        "properties": {
                            "action": {"const": action},
                            "data": {"$ref": _ref(data)},
                        },
                        "required": ["data"] if needs_data else [],
                    },
                ]
            },
        )
        if example is not None:
            frame = {"type": "request", "action": action, "request_id": 1, "data": example}
            self.messages[asked]["examples"] = [{"payload": frame}]
        self.messages[answered] = _message(
            answered, _with(frames.ResponseFrame, data={"$ref": _ref(answer)})
        )
        self.operations[f"{self._channel}_{action}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{self._channel}"},
            "messages": _refs(self._channel, [asked]),
            "reply": {
                "channel": {"$ref": f"#/channels/{self._channel}"},
                "messages": _refs(self._channel, [answered, _name(frames.FailureFrame)]),
            },
        }


def _payloads(struct: type[msgspec.Struct]) -> list[tuple[str, Json]]:
    """The messages of a frame, with what its encoded part holds; a live one has several."""
    name = _name(struct)
    if struct is frames.LiveFrame:
        return [
            (f"{name}_{kind}", _with(struct, event={"const": kind}, data={"$ref": _ref(data)}))
            for kind, data in LIVE_DATA.items()
        ]
    if struct in (frames.EventFrame, session_frames.ChangeFrame):
        events = {"$ref": _ref(EventJson)}, {"$ref": _ref(CloudEventJson)}
        return [(name, _with(struct, event={"anyOf": list(events)}))]
    return [(name, {"$ref": _ref(struct)})]


def _with(struct: type[msgspec.Struct], **properties: Json) -> Json:
    """A struct whose properties are narrowed."""
    return {"allOf": [{"$ref": _ref(struct)}, {"type": "object", "properties": properties}]}


def _event_messages() -> dict[str, Json]:
    """What stands behind `event:` in a stream of changes, and its `data:`."""
    messages = {
        "ready": _message("ready", {"$ref": _ref(CursorData)}),
        "progress": _message("progress", {"$ref": _ref(CursorData)}),
        "reset": _message("reset", {"$ref": _ref(ResetData)}),
        "goodbye": _message("goodbye", {"$ref": _ref(GoodbyeData)}),
    }
    for kind in EVENT_TYPES:
        messages[kind] = _message(kind, _with(EventJson, type={"const": kind}))
    return messages


def _channel(
    address: str,
    description: str,
    protocol: str,
    messages: dict[str, Json],
    parameters: Json | None = None,
    query: Json | None = None,
) -> Json:
    channel: Json = {
        "address": address,
        "description": description,
        "servers": [{"$ref": f"#/servers/{protocol}"}],
        "messages": messages,
    }
    if "{library}" in address:
        channel["parameters"] = {"library": _LIBRARY}
    elif parameters:
        channel["parameters"] = parameters
    if protocol == "ws":
        binding: Json = {"method": "GET", "bindingVersion": "0.1.0"}
        channel["bindings"] = {"ws": binding if query is None else {**binding, "query": query}}
    return channel


def _message(name: str, payload: Json) -> Json:
    return {"name": name, "payload": payload}


def _refs(channel: str, names: Iterable[str]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]


def _ref(struct: type[msgspec.Struct]) -> str:
    return _SCHEMA.format(name=struct.__name__)


def _name(struct: type[msgspec.Struct]) -> str:
    """`WelcomeFrame` as `welcome`."""
    words = struct.__name__.removesuffix("Frame")
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in words).lstrip("_")


def _codes() -> str:
    return ", ".join(f"{int(code)} ({meaning})" for code, meaning in MEANINGS.items())
