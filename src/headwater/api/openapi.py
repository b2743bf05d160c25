"""The OpenAPI description of bodies that pydantic does not see.

Requests and answers are msgspec structs or streams of lines; the helpers here describe them on
their routes, and `install` adds the structs' schemas to the document.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from headwater.api import job_type_wire, job_wire, wire

_REF = "#/components/schemas/{name}"
NDJSON = "application/x-ndjson"
PROBLEMS = {
    400: "The request could not be read.",
    403: "A page of another site may not.",
    404: "No such library or document.",
    409: "Conflict with the current state.",
    410: "The cursor is older than the log, or of another log.",
    412: "The version does not match.",
    413: "Over a limit.",
    415: "The content encoding is not understood.",
    416: "The range is not in the file.",
    422: "The request is not valid.",
    426: "A WebSocket handshake is needed.",
    429: "Too much is waiting; retry.",
    502: "The embedder refuses, or its answer is wrong.",
    503: "Not available now; retry.",
    507: "The disk is full.",
}


def ref(type: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([type], ref_template=_REF)
    return schema


def body(type: Any, example: Any, *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` for a JSON body."""
    content = {"application/json": {"schema": ref(type), "example": example}}
    return {"requestBody": {"required": required, "content": content}}


def answers(
    success: dict[int, tuple[str, dict[str, Any]]], *problems: int
) -> dict[int | str, dict[str, Any]]:
    """`responses` for a route: what it gives, and the problems it may give."""
    result: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": content} if content else {"description": text}
        for status, (text, content) in success.items()
    }
    for status in problems:
        result[status] = {
            "description": PROBLEMS[status],
            "content": {"application/problem+json": {"schema": ref(wire.Problem)}},
        }
    return result


def json(type: Any, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": ref(type)}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


def lines(example: str, media_type: str = NDJSON) -> dict[str, Any]:
    """A stream of lines, shown by example."""
    return {media_type: {"schema": {"type": "string"}, "example": example}}


def _mend(operation: dict[str, Any]) -> None:
    """What FastAPI assumes of answers it does not see, and what every body may meet."""
    statuses = {422} if operation.get("parameters") else set()
    if content := operation.get("requestBody", {}).get("content"):
        statuses |= {415, 422}
        if NDJSON not in content:
            statuses |= {400, 413}
    responses = operation["responses"]
    for status, response in answers({}, *statuses).items():
        if "application/problem+json" not in responses.get(str(status), {}).get("content", {}):
            responses[str(status)] = response
    for response in responses.values():
        if len(content := response.get("content", {})) > 1:
            content.pop("application/json", None)
    operation["responses"] = dict(sorted(responses.items()))


def install(app: FastAPI, version: str) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title="Headwater",
                version=version,
                description="A real-time vector search server whose change log is its spine.",
                routes=app.routes,
                tags=[
                    {"name": "libraries", "description": "Named sets of documents."},
                    {"name": "documents", "description": "One document, or a small batch."},
                    {"name": "streams", "description": "Documents as NDJSON, in and out."},
                    {"name": "search", "description": "By meaning or by vector."},
                    {"name": "live", "description": "Searches that stay open, and alerts."},
                    {"name": "sessions", "description": "People who search together."},
                    {"name": "events", "description": "Every change, in order, resumable."},
                    {"name": "sockets", "description": "All of it over one connection."},
                    {"name": "jobs", "description": "Long work in the background."},
                    {"name": "embedders", "description": "Which there are, and their figures."},
                    {"name": "server", "description": "Is it well?"},
                ],
            )
            _, components = msgspec.json.schema_components(
                [*wire.ALL, *job_wire.ALL, *job_type_wire.ALL], ref_template=_REF
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; see `problems`
                schemas.pop(name, None)
            schemas.update(components)
            for item in document["paths"].values():
                for operation in item.values():
                    _mend(operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
