"""`/v1/embedders`: which embedders there are, and how those in use are doing."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.embed import Embedders

EXAMPLE = {
    "available": [
        {"name": "static"},
        {"name": "none"},
        {"name": "cohere:<model>", "host": "api.cohere.com", "key": True},
        {"name": "openai:<model>", "host": "localhost:11434", "key": False},
        {"name": "fastembed:<model>", "installed": False},
        {"name": "sentence-transformers:<model>", "installed": False},
        {"name": "letters", "plug_in": "letters:make"},
    ],
    "embedders": [
        {
            "name": "cohere:embed-v4.0",
            "identity": "cohere:embed-v4.0:512@api.cohere.com",
            "dimension": 512,
            "state": "running",
            "error": None,
            "errors": {},
            "document": {"texts": 960, "count": 10, "p50_ms": 81.2, "p99_ms": 310.5, "max_ms": 344},
            "query": {"texts": 12, "count": 12, "p50_ms": 60.1, "p99_ms": 71.9, "max_ms": 75.3},
            "provider": {
                "host": "api.cohere.com",
                "key": True,
                "calls": {"count": 24, "p50_ms": 62.4, "p99_ms": 143.0, "max_ms": 151.6},
                "inputs": 972,
                "tokens": 20411,
                "cost": None,
                "retries": 2,
                "splits": 0,
                "errors": {"rate_limit": 2},
                "in_flight": 0,
                "inputs_per_call": 96,
                "waiting": {"document": 0, "query": 0},
                "breaker": {"state": "closed", "opened": 0, "retry_after_s": None},
            },
        }
    ],
    "query_cache": {"entries": 12, "bytes": 29376, "hits": 31, "misses": 12},
}


def embedder_routes(embedders: Embedders) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["embedders"])

    @router.get(
        "/embedders",
        summary="Embedders and their figures",
        description="Those a library may be created with, and those in use in this process since "
        "it started: latencies, errors, what waits, tokens and cost, the circuit breaker.",
        responses=openapi.answers(
            {200: ("The embedders.", {"application/json": {"example": EXAMPLE}})}
        ),
    )
    async def show() -> Response:
        return wire.json_response(embedders.statistics())

    return router
