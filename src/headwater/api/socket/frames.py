"""The frames of a socket: what a client may send, and what it is sent.

One JSON object a message, with a `type`. The structs here are what is parsed, what is encoded and
what `/asyncapi.json` describes; nothing is said on a socket that has no struct.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Raw

from headwater.api import problems
from headwater.errors import HeadwaterError, InvalidFrame, InvalidJson
from headwater.service.deltas import LiveEventName

SUBPROTOCOL = "headwater.v1"
LARGEST_ID = 128

RequestId = (
    Annotated[str, msgspec.Meta(max_length=LARGEST_ID)]
    | Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
)
"""Integers that every JSON parser keeps (RFC 8259, section 6)."""

encode = msgspec.json.Encoder().encode


# ── From the client ─────────────────────────────────────────────────────────────────────────────


class RequestFrame(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Asks for something. `request_id` is the client's own and comes back in the response."""

    type: Literal["request"]
    action: str
    request_id: RequestId
    data: Raw = msgspec.field(default_factory=lambda: Raw(b"{}"))


class _AnyId(msgspec.Struct):
    """What can still be read of a frame that is wrong."""

    request_id: RequestId


_parse = msgspec.json.Decoder(RequestFrame).decode
_id = msgspec.json.Decoder(_AnyId).decode


def parse(text: str) -> RequestFrame:
    """One frame of a client.

    Raises `InvalidJson` for what is no JSON, `InvalidFrame` for what is no request; the error's
    `fields["request_id"]` is there when one could be read.
    """
    try:
        return _parse(text)
    except msgspec.ValidationError as error:
        fields = {}
        with suppress(msgspec.MsgspecError, RecursionError):  # of what the first look skipped
            fields["request_id"] = _id(text).request_id
        raise InvalidFrame(
            f'{error}; a frame is {{"type":"request","action":…,"request_id":…,"data":{{…}}}}, '
            f"its request_id an integer or a text of up to {LARGEST_ID} characters",
            **fields,
        ) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidJson(f"the message is not JSON: {error}") from error


# ── To the client ───────────────────────────────────────────────────────────────────────────────


class ErrorJson(msgspec.Struct):
    """A problem as HTTP tells it; some codes bring further fields. `detail` names the next step."""

    code: str
    title: str
    status: int
    detail: str
    retryable: bool


class ResponseFrame(msgspec.Struct, kw_only=True, omit_defaults=False):
    """What became of a request, in one part or several.

    `part` counts from 0, and the response is whole with the one that is `last`. The `results` of a
    search are those of all its parts, in order; what else it says is in the last.
    """

    type: Literal["response"] = "response"
    request_id: RequestId
    success: Literal[True] = True
    part: int = 0
    last: bool = True
    data: Raw


class FailureFrame(msgspec.Struct, kw_only=True):
    """A request that failed; when parts were sent before it, they are not the whole answer."""

    type: Literal["response"] = "response"
    request_id: RequestId
    success: Literal[False] = False
    part: int = 0
    last: Literal[True] = True
    error: ErrorJson


class ErrorFrame(msgspec.Struct, kw_only=True):
    """Something that belongs to no request went wrong, such as a message that could not be read."""

    type: Literal["error"] = "error"
    error: ErrorJson


class EventFrame(msgspec.Struct, kw_only=True):
    """A change that a subscription wants; `event` is as in the stream of server-sent events."""

    type: Literal["event"] = "event"
    subscription_id: str
    event: Raw


class LiveFrame(msgspec.Struct, kw_only=True):
    """What a live query tells; `data` is as in the stream of server-sent events."""

    type: Literal["live"] = "live"
    watch_id: str
    event: LiveEventName
    data: Raw


class SocketLimits(msgspec.Struct):
    """What this socket may do; see the settings."""

    message_bytes: int
    in_flight: int
    requests_per_second: float
    burst: int
    subscriptions: int
    watches: int
    max_unacked: int
    k: int


class WelcomeFrame(msgspec.Struct, kw_only=True):
    """The first frame. Subscribing after its `cursor` misses nothing that comes."""

    type: Literal["system"] = "system"
    event: Literal["welcome"] = "welcome"
    connection_id: str
    library_id: str
    cursor: str
    server_time: str
    version: str
    limits: SocketLimits


class ProgressFrame(msgspec.Struct, kw_only=True, omit_defaults=True):
    """To those named there was nothing to tell up to `cursor`; they may be resumed from there."""

    type: Literal["system"]
    event: Literal["progress"]
    cursor: str
    subscription_ids: list[str] = []
    watch_ids: list[str] = []


class EndedFrame(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A subscription or live query is over; the socket goes on."""

    type: Literal["system"]
    event: Literal["ended"]
    subscription_id: str | None = None
    watch_id: str | None = None
    error: ErrorJson


class GoodbyeFrame(msgspec.Struct, kw_only=True):
    """The last frame before the server closes the socket to stop.

    `subscriptions` has the cursor of each, to go on from after connecting again in `retry_ms`.
    """

    type: Literal["system"] = "system"
    event: Literal["goodbye"] = "goodbye"
    reason: Literal["stopping"] = "stopping"
    cursor: str
    retry_ms: int
    subscriptions: dict[str, str]


SENT: tuple[type[msgspec.Struct], ...] = (
    WelcomeFrame,
    ProgressFrame,
    EndedFrame,
    GoodbyeFrame,
    ResponseFrame,
    FailureFrame,
    ErrorFrame,
    EventFrame,
    LiveFrame,
)
"""All that a server sends."""


def response(id: RequestId, data: bytes, *, part: int = 0, last: bool = True) -> bytes:
    return encode(ResponseFrame(request_id=id, part=part, last=last, data=Raw(data)))


def failure(id: RequestId, error: HeadwaterError, *, part: int = 0) -> bytes:
    return encode(
        {
            "type": "response",
            "request_id": id,
            "success": False,
            "part": part,
            "last": True,
            "error": error_of(error),
        }
    )


def error(error: HeadwaterError) -> bytes:
    return encode({"type": "error", "error": error_of(error)})


def ended(error: HeadwaterError, **ids: str) -> bytes:
    """`ids` is the `subscription_id` or the `watch_id`."""
    return encode({"type": "system", "event": "ended", **ids, "error": error_of(error)})


def event(subscription_id: str, json: bytes) -> bytes:
    return b'{"type":"event","subscription_id":"%b","event":%b}' % (subscription_id.encode(), json)


def live(watch_id: str, name: str, json: bytes) -> bytes:
    return b'{"type":"live","watch_id":"%b","event":"%b","data":%b}' % (
        watch_id.encode(),
        name.encode(),
        json,
    )


def error_of(error: HeadwaterError) -> dict[str, Any]:
    """`ErrorJson`, with the error's own fields."""
    status = problems.status_of(error)
    return {
        **error.fields,
        "code": error.code,
        "title": problems.TITLES.get(status, "Error"),
        "status": status,
        "detail": error.detail,
        "retryable": error.retryable,
    }
