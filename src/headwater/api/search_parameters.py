"""A search as query parameters: each field of the JSON body under its own name.

For `…/search` and `…/search/stream`: they may stand beside a body and win over it. What is no text,
number or word is JSON, as in the body; lists of ids are the parameter several times.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from headwater.errors import InvalidQuery
from headwater.filters import parse_json
from headwater.service.query import Mmr, Mode, Query, Weights

_JSON: dict[str, Any] = {"vector": list[float], "weights": Weights, "mmr": Mmr | float}


class SearchParameters(BaseModel):
    """None: not given. A name that is not here is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str | None = Field(None, description="The text to search for.")
    vector: str | None = Field(None, description="Or a vector, as a JSON list.")
    like: list[str] | None = Field(None, description="Or a document's id; may come several times.")
    unlike: list[str] | None = Field(None, description="An id, with `like`; several times.")
    mode: Mode | None = Field(None, description="How to search; decided by the rest when left out.")
    k: int | None = Field(None, description="How many hits; 10 when not given.")
    filter: str | None = Field(None, description="A filter on metadata, as JSON.")
    score_threshold: float | None = Field(None, description="Leave out what scores lower.")
    weights: str | None = Field(None, description='As JSON: `{"vector":1,"keyword":1}`.')
    mmr: str | None = Field(None, description='As JSON: a number, or `{"relevance":0.5}`.')
    group_by: Literal["document"] | None = Field(None, description="Not in a stream.")
    group_size: int | None = Field(None, description="Not in a stream.")
    highlight: bool | None = Field(None, description="Mark the words in the passages.")
    include: str | None = Field(None, description="`vector`, `distance`.")
    after: str | None = Field(None, description="`next` of an earlier answer.")
    min_cursor: str | None = Field(None, description="Wait until that write is searchable.")
    exact: bool | None = Field(None, description="Compare every vector.")
    ef: int | None = Field(None, description="How wide graphs are walked.")
    explain: bool | None = Field(None, description="Say how the search was done.")

    def over(self, query: Query) -> Query:
        """`query` with what was given here in its place.

        Raises `InvalidQuery`, `InvalidFilter`.
        """
        given = self.model_dump(exclude_none=True)
        if self.include is not None:
            given["include"] = names(self.include)
        if self.filter is not None:
            given["filter"] = filter_of(self.filter)
        for name, kind in _JSON.items():
            if name in given:
                given[name] = decoded(name, given[name], kind)
        return msgspec.structs.replace(query, **given)


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def filter_of(text: str) -> dict[str, Any]:
    """A filter that is JSON. Raises `InvalidFilter`."""
    parse_json(text)
    made: dict[str, Any] = msgspec.json.decode(text)
    return made


def decoded(name: str, text: str, kind: Any) -> Any:
    """A parameter that is JSON. Raises `InvalidQuery`."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidQuery(
            f"the parameter `{name}` is not what it is in the JSON body: {error}", parameter=name
        ) from error
