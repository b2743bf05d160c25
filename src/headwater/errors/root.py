"""The root of the tree, and its branches."""

from __future__ import annotations

from typing import Any, ClassVar


class HeadwaterError(Exception):
    """The root. `code` is stable; `fields` are typed extras that reach the client."""

    code: ClassVar[str] = "internal"
    retryable: bool = False

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class InvalidInput(HeadwaterError):
    code = "invalid_input"


class TooLarge(HeadwaterError):
    code = "too_large"


class NotFound(HeadwaterError):
    code = "not_found"


class Conflict(HeadwaterError):
    code = "conflict"


class Unavailable(HeadwaterError):
    code = "unavailable"
    retryable = True


class Refused(HeadwaterError):
    code = "refused"
