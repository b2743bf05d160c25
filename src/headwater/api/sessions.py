"""`/v1/sessions`: list shared sessions, look at one, delete it.

Joining is `socket/session_routes.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.documents import parse_include
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.errors import HeadwaterError, NotFound
from headwater.live.results import Results
from headwater.live.room import failure_data
from headwater.model import Session
from headwater.service.libraries import Libraries
from headwater.service.live import LiveQuery, LiveSearches
from headwater.service.sessions import Sessions
from headwater.settings import LimitSettings
from headwater.store.session_data import mark_data, person_data, query_data

AUTHOR = {"name": "Ann", "colour": "#c0392b"}
STATE = {
    "session": {
        "session_id": "0192…",
        "name": "tides",
        "library_id": "0192…",
        "library": "notes",
        "people": 1,
        "pins": 0,
        "notes": 0,
        "revision": 3,
        "created_at": "2026-11-28T12:00:00.000000Z",
        "updated_at": "2026-11-28T12:04:00.000000Z",
        "cursor": "k3f9q2.88123",
    },
    "cursor": "k3f9q2.88130",
    "query": {"revision": 3, "query": {"query": "winter", "k": 5}, "author": AUTHOR},
    "people": [
        {
            "person_id": "0192…",
            "name": "Ann",
            "colour": "#c0392b",
            "joined_at": "2026-11-28T12:00:00.000000Z",
            "process": "0192…",
        }
    ],
    "pins": [],
    "notes": [],
}


def session_routes(
    log: Log,
    libraries: Libraries,
    sessions: Sessions,
    live: LiveSearches,
    limits: LimitSettings,
) -> APIRouter:
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.get(
        "",
        summary="List shared sessions",
        responses=openapi.answers(
            {200: ("A page.", openapi.json(wire.SessionPage))}, 400, 404, 422
        ),
    )
    async def page(
        library: Annotated[str | None, Query(description="Only those on this library.")] = None,
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    ) -> Response:
        found = await sessions.page(read_token(after), limit + 1, library)
        shown = found[:limit]
        return wire.json_response(
            wire.SessionPage(
                [wire.session_json(session, log.store.log_id) for session in shown],
                next_token(shown[-1].row) if len(found) > limit else None,
            )
        )

    @router.get(
        "/{name}",
        summary="All there is of a session",
        description=(
            "Its query, and who and what is in it, by name or id. `include=results` searches for "
            "what the people in it see now. As a WebSocket this path joins the session."
        ),
        responses=openapi.answers(
            {200: ("The session.", {"application/json": {"example": STATE}})}, 404, 422, 503
        ),
    )
    async def get(
        name: str,
        include: Annotated[str | None, Query(description="`results`")] = None,
    ) -> Response:
        wanted = parse_include(include, frozenset({"results"}))
        state = await sessions.get(name)
        session = state.session
        query = query_data(session)
        if session.query is not None:
            query["query"] = msgspec.Raw(session.query)
        shown: dict[str, Any] = {
            "session": wire.session_json(session, log.store.log_id),
            "cursor": str(log.cursor(state.position)),
            "query": query,
            "people": [person_data(person) for person in state.people],
            "pins": [mark_data(mark) for mark in state.marks if mark.kind == "pin"],
            "notes": [mark_data(mark) for mark in state.marks if mark.kind == "note"],
        }
        if "results" in wanted:
            shown["results"] = shown["failure"] = None
            if session.query is not None:
                try:
                    shown["results"] = await _results(session)
                except NotFound:
                    raise
                except HeadwaterError as error:  # the rest of the session is there all the same
                    shown["failure"] = failure_data(error)
        return wire.json_response(shown)

    async def _results(session: Session) -> dict[str, Any]:
        """As in the `state` that people in it are sent."""
        assert session.query is not None, "nothing is asked"
        asked = msgspec.json.decode(session.query, type=LiveQuery)
        results = Results("chunk_id")
        async with live.watch(await libraries.get(session.library_id), asked) as watch:
            while (deltas := await watch.take()) is None:
                await watch.wait()
            results.apply(((e.event, e.data) for e in deltas.events), deltas.cursor)
        return {
            "revision": session.revision,
            "cursor": results.cursor,
            "hits": results.hits(),
        }

    @router.delete(
        "/{name}",
        summary="End a session for everybody",
        description="By name or id. Its people are put out; its pins and notes are deleted.",
        responses=openapi.answers({200: ("Deleted.", openapi.json(wire.Deleted))}, 404),
    )
    async def delete(name: str) -> Response:
        session, position = await sessions.delete(name)
        return wire.json_response(wire.Deleted(session.id, str(log.cursor(position))))

    return router
