"""Keys of providers: where they come from, and that they show up nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from embed.provider import KEY, FakeProvider, refuse
from pydantic import SecretStr, ValidationError
from server.client import Client
from server.running import Server

from headwater.embed import Embedders
from headwater.errors import EmbedderFailed
from headwater.settings import EmbedSettings, Settings


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "COHERE_API_KEY", "CO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def secret(settings: EmbedSettings, kind: str) -> str | None:
    key = getattr(settings, f"{kind}_api_key")
    return None if key is None else str(key.get_secret_value())


def test_the_setting_goes_before_the_file_before_the_providers_own_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert secret(Settings().embed, "openai") is None
    monkeypatch.setenv("OPENAI_API_KEY", "from-variable")
    monkeypatch.setenv("CO_API_KEY", "from-co")
    assert secret(Settings().embed, "openai") == "from-variable"
    assert secret(Settings().embed, "cohere") == "from-co"
    monkeypatch.setenv("COHERE_API_KEY", "from-cohere")
    assert secret(Settings().embed, "cohere") == "from-cohere"
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("HEADWATER_EMBED__OPENAI_API_KEY_FILE", str(tmp_path / "key"))
    assert secret(Settings().embed, "openai") == "from-file"
    monkeypatch.setenv("HEADWATER_EMBED__OPENAI_API_KEY", "from-setting")
    assert secret(Settings().embed, "openai") == "from-setting"


def test_a_providers_own_variable_is_not_sent_to_another_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("COHERE_API_KEY", KEY)
    settings = EmbedSettings(
        openai_base_url="http://localhost:11434/v1", cohere_base_url="https://cohere.example"
    )
    assert secret(settings, "openai") is None
    assert secret(settings, "cohere") is None


@pytest.mark.parametrize(
    "url", ["localhost:1", "ftp://host/v1", "https://u:pw@host/v1", "https://host/v1?key=pw", ""]
)
def test_a_base_url_is_plain(url: str) -> None:
    with pytest.raises(ValidationError, match="base URL"):
        EmbedSettings(openai_base_url=url)


def test_a_wrong_key_or_file_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADWATER_EMBED__OPENAI_API_KEY", KEY + "\n")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert KEY not in str(caught.value)
    monkeypatch.delenv("HEADWATER_EMBED__OPENAI_API_KEY")
    monkeypatch.setenv("HEADWATER_EMBED__OPENAI_API_KEY_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ValidationError, match="openai_api_key_file cannot be read"):
        Settings()


def test_the_settings_command_shows_asterisks() -> None:
    environment = os.environ | {"HEADWATER_EMBED__OPENAI_API_KEY": KEY, "COHERE_API_KEY": KEY}
    for form in ([], ["--json"]):
        shown = subprocess.run(
            [sys.executable, "-m", "headwater", "settings", *form],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert KEY not in shown.stdout + shown.stderr
        if form:
            entries = {entry["variable"]: entry for entry in json.loads(shown.stdout)}
            assert entries["HEADWATER_EMBED__OPENAI_API_KEY"]["value"] == "**********"
            assert entries["HEADWATER_EMBED__COHERE_API_KEY"]["value"] == "**********"


def test_a_server_shows_its_key_to_the_provider_only(fake: FakeProvider, tmp_path: Path) -> None:
    """All a server says and keeps is searched for the key: answers, figures, log, store, views."""
    fake.key = KEY
    said: list[str] = []
    with Server(
        tmp_path / "data",
        embed__openai_base_url=fake.url,
        embed__openai_api_key=KEY,
        embed__cohere_base_url=fake.url,
        embed__cohere_api_key="sk-a-wrong-one-987654",
        embed__retries=0,
        embed__breaker_failures=1,
        embed__breaker_open=600,
        log_level="debug",
    ) as server:
        with Client(server.url) as client:

            def post(path: str, **body: object) -> int:
                response = client.http.post(f"/v1/libraries{path}", json=body)
                said.append(f"{response.text}{response.headers}")
                return response.status_code

            assert post("", name="wrong", embedder="cohere:m") == 502
            assert post("", name="good", embedder="openai:m") == 201
            assert post("/good/documents", id="a", text="a boat at sea") == 201
            assert post("/good/search", query="a boat at sea", mode="vector") == 200
            assert client.http.get("/v1/libraries/good").json()["dimension"] == 8

            fake.script.append(refuse(400, f"bad: {KEY}"))
            assert post("/good/search", query="bad", mode="vector") == 502
            fake.every_step = refuse(503, f"down: {KEY}")
            assert post("/good/search", query="down", mode="vector") == 503
            response = client.http.post(
                "/v1/libraries/good/search", json={"query": "left alone", "mode": "vector"}
            )
            said.append(response.text)
            assert response.json()["code"] == "embedder_unavailable"
            assert int(response.headers["retry-after"]) > 60

            figures = client.http.get("/v1/embedders")
            said.append(figures.text)
            (openai,) = (e for e in figures.json()["embedders"] if e["name"] == "openai:m")
            assert openai["state"] == "running"
            assert openai["provider"]["breaker"]["state"] == "open"
            assert openai["provider"]["key"] is True
            assert openai["query"]["texts"] == 1
            assert openai["provider"]["tokens"] >= 4
            said += [client.http.get(path).text for path in ("/openapi.json", "/v1/events")]
        server.stop()
        said.append(server.said())
    assert any(call.authorization == f"Bearer {KEY}" for call in fake.calls)
    for key in (KEY, "sk-a-wrong-one-987654"):
        assert key not in "".join(said)
        for path in (tmp_path / "data").rglob("*"):
            assert path.is_dir() or key.encode() not in path.read_bytes(), path


@pytest.mark.anyio
async def test_a_key_that_is_changed_in_its_file_is_read_again(
    fake: FakeProvider, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("the-first-key-1234\n")
    fake.key = "the-first-key-1234"
    settings = EmbedSettings(openai_base_url=fake.url, openai_api_key_file=file, concurrency=4)
    embedders = Embedders(settings)
    async with anyio.create_task_group() as group:
        await group.start(embedders.run)
        embedder = embedders.get("openai:m")
        await embedder.embed(["a"])
        fake.key = "the-second-key-5678"
        with pytest.raises(EmbedderFailed, match="OPENAI_API_KEY_FILE names"):
            await embedder.embed(["b"])
        file.write_text("the-second-key-5678")
        async with anyio.create_task_group() as calls:
            for number in range(4):  # refused side by side, all with the old key
                calls.start_soon(embedder.embed, [f"{number}"])
        file.unlink()
        await embedder.embed(["c"])
        group.cancel_scope.cancel()


def test_what_is_set_goes_before_the_file_also_later(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from the file")
    settings = EmbedSettings(openai_api_key=SecretStr(KEY), openai_api_key_file=file)
    assert settings.key_again("openai") is None
    assert EmbedSettings(openai_api_key_file=file).key_again("openai") == SecretStr("from the file")
    assert settings.key_again("cohere") is None
