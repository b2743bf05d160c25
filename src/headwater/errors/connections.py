"""Feeds and sockets: cursors, handshakes, frames."""

from __future__ import annotations

from headwater.errors.root import Conflict, HeadwaterError, InvalidInput, NotFound, TooLarge


class InvalidCursor(InvalidInput):
    code = "invalid_cursor"


class InvalidHandshake(InvalidInput):
    code = "invalid_handshake"


class UnknownSubprotocol(InvalidInput):
    code = "unknown_subprotocol"


class UpgradeRequired(InvalidInput):
    code = "upgrade_required"


class InvalidFrame(InvalidInput):
    code = "invalid_frame"


class UnknownAction(InvalidInput):
    code = "unknown_action"


class TooManySubscriptions(TooLarge):
    code = "too_many_subscriptions"


class SubscriptionNotFound(NotFound):
    code = "subscription_not_found"


class DuplicateRequest(Conflict):
    code = "duplicate_request"


class CursorExpired(HeadwaterError):
    """`fields["earliest"]` is the oldest cursor that can still be read after."""

    code = "cursor_expired"


class OriginRefused(HeadwaterError):
    code = "origin_refused"
