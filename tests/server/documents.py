"""How tests ask the routes of single documents, and read what these answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
from server.client import Client


def at(library: str, id: str | None = None) -> str:
    path = f"/v1/libraries/{library}/documents"
    return path if id is None else f"{path}/{quote(id, safe='')}"


def post(client: Client, library: str, body: dict[str, Any], **params: Any) -> httpx.Response:
    return client.http.post(at(library), json=body, params=params)


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]
