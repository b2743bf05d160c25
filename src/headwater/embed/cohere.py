"""Cohere's embedders: `POST {base}/v2/embed` (Cohere API reference, "Embed API (v2)").

Cohere's models make other vectors for what is searched than for what it is searched with, so
`kind` becomes `input_type`. 96 texts a call at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headwater.embed.base import Kind
from headwater.embed.provider import UNREADABLE, Answer, Call, Provider, encode, stack


class _Embeddings(msgspec.Struct):
    floats: list[list[float]] = msgspec.field(name="float")


class _Units(msgspec.Struct):
    input_tokens: float | None = None


class _Meta(msgspec.Struct):
    billed_units: _Units | None = None


class _Body(msgspec.Struct):
    embeddings: _Embeddings
    meta: _Meta | None = None


_decode = msgspec.json.Decoder(_Body).decode


class Cohere(Provider):
    kind = "cohere"
    max_inputs = 96
    key_setting = "HEADWATER_EMBED__COHERE_API_KEY"
    url_setting = "HEADWATER_EMBED__COHERE_BASE_URL"

    def call(self, texts: Sequence[str], kind: Kind) -> Call:
        body: dict[str, Any] = {
            "model": self.model,
            "texts": list(texts),
            "input_type": f"search_{kind}",
            "embedding_types": ["float"],
        }
        if self.width is not None:
            body["output_dimension"] = self.width
        return Call(f"{self.base_url}/v2/embed", self._headers(), encode(body), self.width)

    def read(self, body: bytes, count: int) -> Answer:
        try:
            found = _decode(body)
        except UNREADABLE as error:
            raise self.unreadable("embed", body, error) from error
        units = found.meta.billed_units if found.meta else None
        tokens = int(units.input_tokens or 0) if units else 0
        return Answer(stack(found.embeddings.floats, count), tokens)
