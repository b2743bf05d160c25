"""The OpenAPI description is valid and says everything a client generator needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from server.client import Client

Json = dict[str, Any]

ROUTES = {
    ("get", "/health"),
    ("get", "/ready"),
    ("post", "/v1/libraries"),
    ("get", "/v1/libraries"),
    ("get", "/v1/libraries/{library}"),
    ("patch", "/v1/libraries/{library}"),
    ("delete", "/v1/libraries/{library}"),
    ("post", "/v1/libraries/{library}/documents"),
    ("get", "/v1/libraries/{library}/documents"),
    ("post", "/v1/libraries/{library}/documents/batch"),
    ("post", "/v1/libraries/{library}/documents/delete"),
    ("post", "/v1/libraries/{library}/documents/embed"),
    ("post", "/v1/libraries/{library}/documents/stream"),
    ("get", "/v1/libraries/{library}/documents/stream"),
    ("get", "/v1/libraries/{library}/documents/{document}"),
    ("put", "/v1/libraries/{library}/documents/{document}"),
    ("patch", "/v1/libraries/{library}/documents/{document}"),
    ("delete", "/v1/libraries/{library}/documents/{document}"),
    ("post", "/v1/libraries/{library}/search"),
    ("post", "/v1/libraries/{library}/search/batch"),
    ("post", "/v1/libraries/{library}/search/stream"),
    ("post", "/v1/libraries/{library}/search/live"),
    ("get", "/v1/libraries/{library}/search/live"),
    ("get", "/v1/live/statistics"),
    ("post", "/v1/libraries/{library}/alerts"),
    ("get", "/v1/libraries/{library}/alerts"),
    ("get", "/v1/libraries/{library}/alerts/{alert}"),
    ("patch", "/v1/libraries/{library}/alerts/{alert}"),
    ("delete", "/v1/libraries/{library}/alerts/{alert}"),
    ("get", "/v1/libraries/{library}/ws"),
    ("get", "/v1/websockets/statistics"),
    ("get", "/v1/embedders"),
    ("get", "/v1/sessions"),
    ("get", "/v1/sessions/{name}"),
    ("delete", "/v1/sessions/{name}"),
    ("get", "/v1/events"),
    ("get", "/v1/events/stream"),
    ("get", "/v1/events/statistics"),
    ("get", "/v1/libraries/{library}/events/stream"),
    ("post", "/v1/jobs"),
    ("post", "/v1/jobs/batch"),
    ("post", "/v1/jobs/batch-delete"),
    ("post", "/v1/jobs/batch-export"),
    ("post", "/v1/jobs/batch-import"),
    ("post", "/v1/jobs/index-optimize"),
    ("post", "/v1/jobs/index-rebuild"),
    ("post", "/v1/jobs/regenerate-embeddings"),
    ("get", "/v1/jobs/{id}/download"),
    ("get", "/v1/jobs/{id}/errors"),
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/types"),
    ("get", "/v1/jobs/statistics"),
    ("get", "/v1/jobs/dead"),
    ("post", "/v1/jobs/dead/replay"),
    ("get", "/v1/jobs/{id}"),
    ("delete", "/v1/jobs/{id}"),
    ("get", "/v1/jobs/{id}/events"),
    ("post", "/v1/jobs/{id}/cancel"),
    ("post", "/v1/jobs/{id}/retry"),
    ("post", "/v1/schedules"),
    ("get", "/v1/schedules"),
    ("get", "/v1/schedules/{schedule}"),
    ("delete", "/v1/schedules/{schedule}"),
    ("post", "/v1/schedules/{schedule}/pause"),
    ("post", "/v1/schedules/{schedule}/resume"),
    ("post", "/v1/schedules/{schedule}/run"),
    ("get", "/v1/workers"),
    ("put", "/v1/workers"),
    ("get", "/v1/workers/{process}"),
    ("put", "/v1/workers/{process}"),
}
STREAMS = {
    ("post", "/v1/libraries/{library}/documents/stream"): "application/x-ndjson",
    ("get", "/v1/libraries/{library}/documents/stream"): "application/x-ndjson",
    ("post", "/v1/libraries/{library}/search/stream"): "application/x-ndjson",
    ("post", "/v1/libraries/{library}/search/live"): "text/event-stream",
    ("get", "/v1/libraries/{library}/search/live"): "text/event-stream",
    ("get", "/v1/events/stream"): "text/event-stream",
    ("get", "/v1/libraries/{library}/events/stream"): "text/event-stream",
    ("get", "/v1/jobs/{id}/events"): "text/event-stream",
}
TAKES_A_BODY = {
    ("post", "/v1/libraries"),
    ("patch", "/v1/libraries/{library}"),
    ("post", "/v1/libraries/{library}/documents"),
    ("post", "/v1/libraries/{library}/documents/batch"),
    ("post", "/v1/libraries/{library}/documents/delete"),
    ("post", "/v1/libraries/{library}/documents/stream"),
    ("put", "/v1/libraries/{library}/documents/{document}"),
    ("patch", "/v1/libraries/{library}/documents/{document}"),
    ("post", "/v1/libraries/{library}/search"),
    ("post", "/v1/libraries/{library}/search/batch"),
    ("post", "/v1/libraries/{library}/search/stream"),
    ("post", "/v1/libraries/{library}/search/live"),
    ("post", "/v1/libraries/{library}/alerts"),
    ("patch", "/v1/libraries/{library}/alerts/{alert}"),
    ("post", "/v1/jobs"),
    ("post", "/v1/jobs/batch"),
    ("post", "/v1/jobs/batch-delete"),
    ("post", "/v1/jobs/batch-export"),
    ("post", "/v1/jobs/batch-import"),
    ("post", "/v1/jobs/index-optimize"),
    ("post", "/v1/jobs/index-rebuild"),
    ("post", "/v1/jobs/regenerate-embeddings"),
    ("post", "/v1/jobs/dead/replay"),
    ("post", "/v1/schedules"),
    ("put", "/v1/workers"),
    ("put", "/v1/workers/{process}"),
}


@pytest.fixture
def document(client: Client) -> Json:
    response = client.http.get("/openapi.json")
    assert response.status_code == 200
    described: Json = response.json()
    return described


def operations(document: Json) -> dict[tuple[str, str], Json]:
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_every_route_is_described_and_no_other(document: Json) -> None:
    assert set(operations(document)) == ROUTES


def test_the_document_is_whole(document: Json) -> None:
    assert document["openapi"].startswith("3.")
    assert document["info"]["title"] == "Headwater"
    assert document["info"]["version"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    tags = {tag["name"] for tag in document["tags"]}
    names = set()
    for (method, path), operation in operations(document).items():
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags
        names.add(operation["operationId"])
        named = re.findall(r"{(\w+)}", path)
        parameters = operation.get("parameters", [])
        assert {p["name"] for p in parameters if p["in"] == "path"} == set(named), path
        assert all(p["required"] for p in parameters if p["in"] == "path")
        assert len({(p["in"], p["name"]) for p in parameters}) == len(parameters)
        for parameter in parameters:
            assert "schema" in parameter
        assert operation["responses"], (method, path)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[2-5]\d\d", status)
            assert response["description"]
    assert len(names) == len(ROUTES)


def test_every_reference_leads_somewhere(document: Json) -> None:
    text = json.dumps(document)
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    assert references
    for reference in references:
        assert reference.startswith("#/")
        target: Any = document
        for part in reference[2:].split("/"):
            assert part in target, reference
            target = target[part]


def test_errors_are_problems(document: Json) -> None:
    for (method, path), operation in operations(document).items():
        for status, response in operation["responses"].items():
            if int(status) < 400 or path == "/ready":
                continue
            assert list(response["content"]) == ["application/problem+json"], (method, path)
            schema = response["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, (method, path, status)
        if "requestBody" in operation:
            assert {"415", "422"} <= set(operation["responses"]), (method, path)
        if "{library}" in path:
            assert "404" in operation["responses"], (method, path)
    assert set(document["components"]["schemas"]["Problem"]["required"]) >= {
        "type",
        "title",
        "status",
        "detail",
        "code",
        "retryable",
        "request_id",
    }


def test_streams_have_examples_of_every_record(document: Json) -> None:
    found = operations(document)
    for route, media_type in STREAMS.items():
        content = found[route]["responses"]["200"]["content"]
        assert list(content) == [media_type], route
        example = content[media_type]["example"]
        if media_type == "application/x-ndjson":
            kinds = {json.loads(line)["type"] for line in example.splitlines()}
            assert kinds & {"summary", "done"}, route
        else:
            assert "event: ready" in example
            told = "enter" if route[1].endswith("/live") else "document.added"
            if route[1].startswith("/v1/jobs/"):
                told = "job.completed"
            assert f"event: {told}" in example
    body = found["post", "/v1/libraries/{library}/documents/stream"]["requestBody"]
    lines = body["content"]["application/x-ndjson"]["example"].splitlines()
    assert all(json.loads(line) for line in lines)


def test_bodies_have_a_schema_and_an_example_that_works(
    client: Client, library: str, document: Json
) -> None:
    client.put(library, "note-1", {"text": "x"})
    alert = {"vector": [1] * 256, "score_threshold": 1}
    made = client.http.post(f"/v1/libraries/{library}/alerts", json=alert).json()
    (worker,) = client.http.get("/v1/workers").json()["workers"]
    for (method, path), operation in operations(document).items():
        assert ("requestBody" in operation) == ((method, path) in TAKES_A_BODY), (method, path)
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        assert content["schema"], path
        real = path.replace("{library}", library).replace("{document}", "note-1")
        real = real.replace("{alert}", made["id"]).replace("{process}", worker["process"])
        with client.http.stream(method, real, json=content["example"]) as response:
            if response.headers["content-type"].startswith("text/event-stream"):
                assert response.is_success  # and it never ends
                continue
            response.read()
        # The example library may have been made before, the example document is there.
        fine = (409,) if (method, path) == ("post", "/v1/libraries/{library}/documents") else ()
        assert response.is_success or response.status_code in fine, (path, response.text)


def test_parameters_of_the_contract_are_described(document: Json) -> None:
    found = operations(document)

    def names(method: str, path: str) -> set[str]:
        return {p["name"] for p in found[method, path].get("parameters", [])}

    documents = "/v1/libraries/{library}/documents"
    assert {"response", "wait", "batch_id"} <= names("post", f"{documents}/stream")
    assert {"include", "after", "follow"} <= names("get", f"{documents}/stream")
    assert {"limit", "after", "include"} <= names("get", documents)
    assert {"if-match", "if-none-match", "wait"} <= names("put", f"{documents}/{{document}}")
    assert {"query", "k"} <= names("post", "/v1/libraries/{library}/search/stream")
    feed = {"library_id", "types", "filter", "include", "format", "after"}
    assert feed | {"last-event-id"} <= names("get", "/v1/events/stream")
    assert feed | {"limit", "wait"} <= names("get", "/v1/events")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_description_can_be_read_by_people(client: Client, path: str) -> None:
    response = client.http.get(path)
    assert response.status_code == 200
    assert "/openapi.json" in response.text
