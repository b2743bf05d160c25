"""Embedders that are asked over HTTP."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from headwater.settings.section import MiB, Seconds, Section, count, in_milliseconds, in_seconds

OPENAI_URL = "https://api.openai.com/v1"
COHERE_URL = "https://api.cohere.com"


class EmbedSettings(Section):
    """Embedders that are asked over HTTP, and the memory of query vectors.

    A key comes from its setting, else from its file, else, for the provider's own base URL only,
    from the variable that the provider's tools read: a key must not go to another host unasked.
    """

    allowed: str = Field(
        "*",
        description="Embedders that new libraries may have, separated by commas, `*` for any "
        "characters: `static,none,openai:text-embedding-3-*`.",
    )
    openai_base_url: str = Field(
        OPENAI_URL,
        description="Where `openai:…` embedders are: OpenAI, or what speaks as it does (Ollama, "
        "vLLM, TEI). `/embeddings` is added.",
    )
    openai_api_key: SecretStr | None = Field(
        None,
        description="Key for `openai:…`; none is sent when not set. With the default base URL "
        "`OPENAI_API_KEY` is used too.",
    )
    openai_api_key_file: Path | None = Field(
        None,
        description="File that holds the key for `openai:…`; read again when the key is refused.",
    )
    cohere_base_url: str = Field(
        COHERE_URL, description="Where `cohere:…` embedders are. `/v2/embed` is added."
    )
    cohere_api_key: SecretStr | None = Field(
        None,
        description="Key for `cohere:…`. With the default base URL `COHERE_API_KEY` and "
        "`CO_API_KEY` are used too.",
    )
    cohere_api_key_file: Path | None = Field(
        None,
        description="File that holds the key for `cohere:…`; read again when the key is refused.",
    )
    timeout: Seconds = in_seconds(90, "Longest single call to a provider")
    connect_timeout: Seconds = in_seconds(5, "Longest wait for a connection to it")
    document_deadline: Seconds = in_seconds(
        120,
        "How long documents wait without one more of their texts being embedded, retries included",
    )
    query_deadline: Seconds = in_seconds(
        10, "How long a query waits to be embedded, retries included"
    )
    max_inputs: int = count(128, "Texts in one call; 96 at most are sent to Cohere.", most=2048)
    linger_ms: int = in_milliseconds(
        3, "How long a call waits for more texts to share it", least=0, most=1_000
    )
    concurrency: int = count(
        4, "Calls at once per embedder for documents, and as many for queries.", most=256
    )
    max_waiting: int = count(20_000, "Texts that wait for one embedder before more are refused.")
    inputs_per_minute: int | None = count(
        None, "Texts sent per minute and embedder; unlimited when not set."
    )
    tokens_per_minute: int | None = count(
        None,
        "Tokens (guessed: a quarter of the characters) sent per minute and embedder; unlimited "
        "when not set.",
    )
    retries: int = count(4, "How often a failed call is made again.", least=0, most=20)
    backoff: Seconds = in_seconds(
        0.5, "Longest wait before the first retry, doubled for each one more"
    )
    backoff_max: Seconds = in_seconds(20, "Longest wait before any retry")
    breaker_failures: int = count(5, "Failed calls in a row before a provider is left alone.")
    breaker_open: Seconds = in_seconds(15, "How long it is left alone before one call tries again")
    cache_bytes: int = count(
        16 * MiB, "Memory for vectors of recent queries, in bytes; 0 keeps none.", least=0
    )
    price_per_million_tokens: float | None = Field(
        None, ge=0, description="Price that the figure `cost` is computed with, in any currency."
    )
    write_wait: Seconds = in_seconds(
        10,
        "How long a write, or a group of a stream, waits for its vectors before it is stored "
        "without them as `pending_embedding`",
    )
    pending_backoff: Seconds = in_seconds(
        1,
        "Longest wait before pending documents are tried again, doubled for each failure in a row",
    )
    pending_backoff_max: Seconds = in_seconds(
        timedelta(minutes=5), "Longest wait before any such try"
    )
    pending_refused_again: Seconds = in_seconds(
        timedelta(hours=6), "When a pending document that the embedder refused is tried again"
    )

    @model_validator(mode="before")
    @classmethod
    def _find_keys(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = dict(given)
        for name, url, variables in (
            ("openai", OPENAI_URL, ("OPENAI_API_KEY",)),
            ("cohere", COHERE_URL, ("COHERE_API_KEY", "CO_API_KEY")),
        ):
            if found.get(f"{name}_api_key"):
                found[f"{name}_api_key_file"] = None  # what is set goes before it, for good
                continue
            if path := found.get(f"{name}_api_key_file"):
                try:
                    found[f"{name}_api_key"] = Path(path).read_text().strip()
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"{name}_api_key_file cannot be read: {error}") from error
            elif found.get(f"{name}_base_url", url) == url:
                keys = (os.environ.get(variable) for variable in variables)
                found[f"{name}_api_key"] = next(filter(None, keys), None)
        return found

    @field_validator("openai_base_url", "cohere_base_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a base URL begins with http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("a base URL has no user, query or fragment; give the key by itself")
        return url.rstrip("/")

    def key_again(self, name: str) -> SecretStr | None:
        """The key of `openai` or `cohere` as its file has it now; None when it comes from none.

        Reads the file: for a thread. Raises `OSError`, `ValueError`.
        """
        path: Path | None = getattr(self, f"{name}_api_key_file")
        return None if path is None else self._check_key(SecretStr(path.read_text().strip()))

    @field_validator("openai_api_key", "cohere_api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None or not key.get_secret_value():
            return None
        if not key.get_secret_value().isascii() or not key.get_secret_value().isprintable():
            raise ValueError("a key has visible ASCII characters only")
        return key
