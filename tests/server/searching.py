"""What tests of searches share: vectors, the scores that numpy gives them, and ways to ask."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray
from server.client import Client, Json

Metric = Literal["cosine", "dot", "euclidean"]
Floats = NDArray[np.float32]

MANY, DIMENSION = 12_000, 16


def at(library: str) -> str:
    return f"/v1/libraries/{library}/search"


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def random_vectors(seed: int, count: int, dimension: int = DIMENSION) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def expected_scores(metric: Metric, matrix: Floats, query: Floats) -> NDArray[np.float64]:
    wide, one = matrix.astype(np.float64), query.astype(np.float64)
    if metric == "dot":
        return np.asarray(wide @ one)
    if metric == "cosine":
        norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(one)
        return np.asarray(wide @ one / norms)
    return np.asarray(1 / (1 + np.linalg.norm(wide - one, axis=1)))


def fill(client: Client, library: str, matrix: Floats) -> None:
    documents = [
        {"id": f"d{n}", "chunks": [{"text": f"text {n}", "vector": vector}]}
        for n, vector in enumerate(matrix.tolist())
    ]
    summary = client.stream(library, documents, response="summary")[-1]
    assert (summary["created"], summary["searchable"]) == (len(matrix), True)


def stream(client: Client, library: str, body: Json | None = None, **params: Any) -> list[Json]:
    response = client.http.post(f"{at(library)}/stream", json=body, params=params)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]
