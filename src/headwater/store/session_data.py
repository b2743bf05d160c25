"""How people, pins, notes and queries look in changes, and so wherever clients meet them.

One place for these shapes: the store writes them into changes, and whoever shows a session's
state must show them alike.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.clock import rfc3339
from headwater.model import Author, Mark, Person, Session


def author_data(author: Author | None) -> dict[str, Any] | None:
    return None if author is None else {"name": author.name, "colour": author.colour}


def person_data(person: Person) -> dict[str, Any]:
    """Without the `client_id`, which is the client's own."""
    return {
        "person_id": person.id,
        "name": person.name,
        "colour": person.colour,
        "joined_at": rfc3339(person.joined_us),
        "process": person.process,
    }


def mark_data(mark: Mark) -> dict[str, Any]:
    return {
        f"{mark.kind}_id": mark.id,
        "revision": mark.revision,
        "document_id": mark.document_id,
        "chunk_id": mark.chunk_id,
        "title": mark.title,
        "text": mark.text,
        "author": author_data(mark.author),
        "created_at": rfc3339(mark.created_us),
        "updated_at": rfc3339(mark.updated_us),
    }


def query_data(session: Session) -> dict[str, Any]:
    """The shared query with its revision and author.

    Changes carry no vectors: a query by vector says how long it is, `vector_dimension`.
    """
    query: dict[str, Any] | None = None
    if session.query is not None:
        query = msgspec.json.decode(session.query, type=dict[str, Any])
        if (given := query.pop("vector", None)) is not None:
            query["vector_dimension"] = len(given)
    return {"revision": session.revision, "query": query, "author": author_data(session.author)}
