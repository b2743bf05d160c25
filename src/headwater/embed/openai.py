"""Embedders that speak as OpenAI does: OpenAI itself, Ollama, vLLM, TEI and many more.

`POST {base}/embeddings` (OpenAI API reference, "Create embeddings"). Vectors are asked for in
base64 as OpenAI's own client does: a third of the bytes, and decoding does not hold the loop up.
Servers that know only lists of numbers send these, or are asked again without.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from pydantic import SecretStr

from headwater.embed.base import Kind
from headwater.embed.provider import UNREADABLE, Answer, Call, Provider, WrongAnswer, encode, stack


class _Item(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Body(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Body).decode


class OpenAI(Provider):
    kind = "openai"
    max_inputs = 2048
    key_setting = "HEADWATER_EMBED__OPENAI_API_KEY"
    url_setting = "HEADWATER_EMBED__OPENAI_BASE_URL"

    def __init__(self, model: str, base_url: str, key: SecretStr | None) -> None:
        super().__init__(model, base_url, key)
        self._base64 = True

    def call(self, texts: Sequence[str], kind: Kind) -> Call:
        body: dict[str, Any] = {"model": self.model, "input": list(texts)}
        if self._base64:
            body["encoding_format"] = "base64"
        if self.width is not None:
            body["dimensions"] = self.width
        url = f"{self.base_url}/embeddings"
        return Call(url, self._headers(), encode(body), self.width, self._base64)

    def read(self, body: bytes, count: int) -> Answer:
        try:
            found = _decode(body)
        except UNREADABLE as error:
            raise self.unreadable("embeddings", body, error) from error
        items = found.data
        if len(items) == count and any(item.index is not None for item in items):
            items = sorted(items, key=lambda item: -1 if item.index is None else item.index)
            if [item.index for item in items] != list(range(count)):
                raise WrongAnswer("the indexes of the vectors are not those of the texts")
        vectors = stack([_numbers(item.embedding) for item in items], count)
        usage = found.usage or _Usage()
        return Answer(vectors, usage.total_tokens or usage.prompt_tokens or 0)

    def adapt(self, call: Call, said: str) -> bool:
        if call.base64 and ("encoding_format" in said or "base64" in said):
            self._base64 = False
            return True
        return False


def _numbers(embedding: list[float] | str) -> Any:
    if not isinstance(embedding, str):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise WrongAnswer(f"a vector that is no base64 of float32 ({error})") from error
