"""Errors as RFC 9457 problem details: the one table of HTTP statuses.

Every answer that is not a success leaves through here, also those for bugs. It must never show
a traceback or a path of the machine.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from headwater import errors
from headwater.errors import HeadwaterError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

STATUS: dict[type[HeadwaterError], int] = {
    errors.InvalidInput: 422,
    errors.InvalidJson: 400,
    errors.InvalidCursor: 400,
    errors.InvalidHandshake: 400,
    errors.UnknownSubprotocol: 400,
    errors.UpgradeRequired: 426,
    errors.OriginRefused: 403,
    errors.TooLarge: 413,
    errors.TooManyItems: 413,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.VersionMismatch: 412,
    errors.CursorExpired: 410,
    errors.FileExpired: 410,
    errors.RangeNotSatisfiable: 416,
    errors.UnsupportedEncoding: 415,
    errors.Unavailable: 503,
    errors.Overloaded: 429,
    errors.RateLimited: 429,
    errors.EmbedderFailed: 502,
    errors.DiskFull: 507,
    errors.Refused: 500,
    HeadwaterError: 500,
}

TITLES = {
    400: "The request could not be read",
    403: "Not allowed from there",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict with the current state",
    410: "The cursor has expired, or the file",
    412: "The version does not match",
    413: "Over a limit",
    415: "Unsupported encoding",
    416: "The range is not in the file",
    422: "The request is not valid",
    426: "A WebSocket handshake is needed",
    429: "Too many requests",
    500: "Internal error",
    502: "The embedder failed",
    503: "Not available now",
    507: "The disk is full",
}


def status_of(error: HeadwaterError) -> int:
    """The status of the nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int, code: str, detail: str, request: Request, retryable: bool = False, **fields: Any
) -> Response:
    body = _members(status, code, detail, retryable, fields)
    body["request_id"] = request.scope.get("headwater.request_id")
    return Response(msgspec.json.encode(body), status, _headers(status, fields), MEDIA_TYPE)


def _headers(status: int, fields: dict[str, Any]) -> dict[str, str] | None:
    """What HTTP wants said of a status beside its body."""
    if status in (429, 503):
        wait_s = max(RETRY_AFTER_S, math.ceil(fields.get("retry_after_s") or 0))
        return {"retry-after": str(wait_s)}
    if status == 416:  # RFC 9110, section 14.4: how long the file is
        return {"content-range": f"bytes */{fields['size_bytes']}"}
    return None


def encoded(error: HeadwaterError) -> bytes:
    """One of our own errors as a problem without a request."""
    status = status_of(error)
    return msgspec.json.encode(
        _members(status, error.code, error.detail, error.retryable, error.fields)
    )


def no_such_socket(path: str) -> bytes:
    """A handshake on a path that has no WebSocket, as a problem."""
    detail = f"there is no WebSocket {path[:200]}; /asyncapi.json says where they are"
    return msgspec.json.encode(_members(404, "no_such_route", detail, False, {}))


def _members(
    status: int, code: str, detail: str, retryable: bool, fields: dict[str, Any]
) -> dict[str, Any]:
    return {
        **fields,
        "type": "urn:headwater:problem:" + code.replace("_", "-"),
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
    }


def known(request: Request, error: HeadwaterError) -> Response:
    """The answer to one of our own errors."""
    status = status_of(error)
    if status >= 500:
        log.warning("request.failed", code=error.code, detail=error.detail, path=request.url.path)
    return problem(status, error.code, error.detail, request, error.retryable, **error.fields)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, HeadwaterError)
    return known(request, error)


_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    unknown = first["type"] == "extra_forbidden"
    wrong = "it is not known here; see /docs for those that are" if unknown else first["msg"]
    return problem(
        422,
        "invalid_parameter",
        f"parameter {where!r}: {wrong}",
        request,
        parameter=where,
    )


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        detail = f"there is no {request.method} {request.url.path}; see /docs for what there is"
        return problem(404, "no_such_route", detail, request)
    if error.status_code == 405:
        detail = f"{request.url.path} does not take {request.method}; see /docs"
        response = problem(405, "method_not_allowed", detail, request)
        response.headers["allow"] = ", ".join(_taken_by(request))
        return response
    return problem(error.status_code, "http_error", str(error.detail), request)


def _taken_by(request: Request) -> list[str]:
    """The methods that a path takes: each may have a route of its own, and the framework's answer
    names those of the first."""
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


async def _gone(request: Request, error: Exception) -> Response:
    """The client has left before its body was whole: nobody reads this answer."""
    log.debug("request.client_gone", path=request.url.path)
    return problem(400, "http_error", "the request's body was cut off", request)


def bug(request: Request, error: Exception) -> Response:
    """The answer to what should never happen."""
    log.error("request.crashed", path=request.url.path, exc_info=error)
    return problem(
        500,
        "internal",
        "a bug in the server; its log has the details under the request id",
        request,
    )


async def _bug(request: Request, error: Exception) -> Response:
    return bug(request, error)


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    app.add_exception_handler(HeadwaterError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
