"""Sessions."""

from __future__ import annotations

from headwater.errors.root import Conflict, InvalidInput, NotFound, TooLarge, Unavailable


class InvalidSession(InvalidInput):
    code = "invalid_session"


class TooManySessions(TooLarge):
    code = "too_many_sessions"


class SessionFull(TooLarge):
    code = "session_full"


class TooManyPins(TooLarge):
    code = "too_many_pins"


class TooManyNotes(TooLarge):
    code = "too_many_notes"


class MessageTooLarge(TooLarge):
    code = "message_too_large"


class SessionNotFound(NotFound):
    code = "session_not_found"


class PinNotFound(NotFound):
    code = "pin_not_found"


class NoteNotFound(NotFound):
    code = "note_not_found"


class SessionElsewhere(Conflict):
    """A session of that name is on another library."""

    code = "session_elsewhere"


class StaleRevision(Conflict):
    """Somebody else was quicker; `fields["current"]` is what there is now."""

    code = "stale_revision"


class Replaced(Conflict):
    """Another connection of the same client has taken this one's place in a session."""

    code = "replaced"


class PresenceLost(Unavailable):
    """The others were told that this person is gone, as this server did not say otherwise."""

    code = "presence_lost"
