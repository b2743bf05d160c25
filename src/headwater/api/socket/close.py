"""Why a socket is closed: the codes of RFC 6455, section 7.4, and our own.

The one table of close codes. Those from 4000 on are ours; they end in the HTTP status that says
the same, so that 4404 reads as 404.
"""

from __future__ import annotations

from enum import IntEnum

from headwater import errors
from headwater.errors import HeadwaterError


class CloseCode(IntEnum):
    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_AGAIN_LATER = 1013
    NOT_FOUND = 4404
    STALLED = 4408
    CONFLICT = 4409
    GONE = 4410
    OVER_LIMIT = 4413


MEANINGS: dict[CloseCode, str] = {
    CloseCode.NORMAL: "the client has closed the socket",
    CloseCode.GOING_AWAY: "the server stops; connect again and resume",
    CloseCode.PROTOCOL_ERROR: "what came was not a WebSocket frame as RFC 6455 has it",
    CloseCode.INVALID_TEXT: "a text message was not UTF-8",
    CloseCode.POLICY: "what was asked for in connecting is wrong; an error frame says how",
    CloseCode.TOO_BIG: "a message was larger than `websocket.message_bytes`",
    CloseCode.INTERNAL: "a bug in the server, or the client answered no ping",
    CloseCode.TRY_AGAIN_LATER: "the server has as many sockets as it takes; try again later",
    CloseCode.NOT_FOUND: "there is no such library, or no such session to join",
    CloseCode.STALLED: "the client has read nothing for `websocket.stall`",
    CloseCode.CONFLICT: "a session: another connection of the same client has joined, or the "
    "session of that name is on another library; connecting again as before would not help",
    CloseCode.GONE: "the library, or the session, was deleted",
    CloseCode.OVER_LIMIT: "a session: as many people, or sessions, as the settings allow",
}


def code_of(error: HeadwaterError) -> CloseCode:
    """The code of a socket that cannot be opened, or not go on, because of `error`."""
    if isinstance(error, errors.NotFound):
        return CloseCode.NOT_FOUND
    if isinstance(error, errors.ShuttingDown):
        return CloseCode.GOING_AWAY
    if isinstance(error, errors.Unavailable):
        return CloseCode.TRY_AGAIN_LATER
    if isinstance(error, errors.Conflict):
        return CloseCode.CONFLICT
    if isinstance(error, errors.TooLarge):
        return CloseCode.OVER_LIMIT
    if isinstance(error, errors.InvalidInput):
        return CloseCode.POLICY
    return CloseCode.INTERNAL
