"""What differs between providers: how a call is written and its answer read.

`remote.py` does the rest. A provider knows no network, holds no queue and must never show its key:
every text of the provider that reaches people goes through `redact`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
from pydantic import SecretStr

from headwater.embed.base import Kind
from headwater.model import Vectors

_SAID_CHARS = 200
_LONG_KEY = 16
_FIRST, _LAST = 6, 4
"""So many characters at a long key's ends tell it: providers repeat `sk-abc…wxyz`."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON that is none, is no UTF-8, or is nested without end."""


class WrongAnswer(Exception):
    """A success whose content is not what was asked for: not JSON, a wrong count, NaN."""


class Call(NamedTuple):
    """A POST to make, and what of it can be written otherwise."""

    url: str
    headers: dict[str, str]
    body: bytes
    width: int | None = None
    base64: bool = False


class Answer(NamedTuple):
    """Vectors as the provider made them, float32 (n, width), and the tokens it counted."""

    vectors: Vectors
    tokens: int


class Provider(ABC):
    """One model at one provider."""

    kind: str
    max_inputs: int
    key_setting: str
    url_setting: str

    def __init__(self, model: str, base_url: str, key: SecretStr | None) -> None:
        self.model = model
        self.base_url = base_url
        self.host = host_of(base_url)
        self.key_again: Callable[[], SecretStr | None] | None = None
        """Reads the key anew, where it comes from a file; for a thread."""
        self._key = key
        self.width: int | None = None
        """Asked of the provider where its own width is another."""

    @abstractmethod
    def call(self, texts: Sequence[str], kind: Kind) -> Call: ...

    @abstractmethod
    def read(self, body: bytes, count: int) -> Answer:
        """Raises `WrongAnswer`."""

    def adapt(self, call: Call, said: str) -> bool:
        """Whether calls are now written otherwise than `call`, because of what its refusal said."""
        return False

    @property
    def has_key(self) -> bool:
        return self._key is not None

    @property
    def key_advice(self) -> str:
        """What to do about a key that is refused, or lacking."""
        if self.key_again is None:
            return f"set {self.key_setting} and restart"
        return f"put the right one into the file that {self.key_setting}_FILE names"

    def renew_key(self, call: Call) -> bool:
        """Read the key anew. Whether it is another than `call` was made with. For a thread."""
        if self.key_again is not None:
            with suppress(OSError, ValueError):
                self._key = self.key_again() or self._key
        return self._headers() != call.headers

    def redact(self, said: str) -> str:
        """What a provider said, in short and without the key or an end of it."""
        said = " ".join(said.split())
        if self._key is not None:
            key = self._key.get_secret_value()
            said = said.replace(key, "…")
            if len(key) >= _LONG_KEY:
                ends = "|".join(map(re.escape, (key[:_FIRST], key[-_LAST:])))
                said = re.sub(rf"\S*(?:{ends})\S*", "…", said)
        said = said.rstrip(".")
        return said if len(said) <= _SAID_CHARS else said[:_SAID_CHARS] + "…"

    def unreadable(self, what: str, body: bytes, error: Exception) -> WrongAnswer:
        """For a success that is no answer to `what`: some send their errors so."""
        said = problem(body)
        if said is None:
            return WrongAnswer(f"not an answer to {what} ({error})")
        return WrongAnswer(f"an error in place of an answer to {what}: {self.redact(said)}")

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key.get_secret_value()}"
        return headers


def host_of(base_url: str) -> str:
    """`host` or `host:port`: the part of a base URL that is shown and stored."""
    parts = urlsplit(base_url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def problem(body: bytes) -> str | None:
    """What a JSON body that tells of an error says, or None when it is no such body."""
    try:
        said: Any = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if not isinstance(said, dict):
        return None
    # {"error": {"message": …}}, {"error": …}, {"message": …} or {"detail": …}
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    if isinstance(said, dict):
        return None
    if isinstance(said, list) and all(isinstance(each, dict) and "msg" in each for each in said):
        # FastAPI's: beside what is wrong and where, each repeats the texts that were sent.
        said = "; ".join(f"{each['msg']} at {each.get('loc')}" for each in said)
    return said if isinstance(said, str) else str(said)


def encode(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body)


def stack(rows: Sequence[Any], count: int) -> Vectors:
    """Rows of numbers as float32 (count, width). Raises `WrongAnswer`."""
    if len(rows) != count:
        raise WrongAnswer(f"{len(rows)} vectors for {count} texts")
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise WrongAnswer(f"vectors of {sorted(widths)} dimensions in one answer")
    with np.errstate(over="ignore"):
        vectors = np.array(rows, np.float64).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise WrongAnswer("vectors with numbers that are not finite")
    return vectors
