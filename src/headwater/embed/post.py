"""One call to a provider, and what its failure means.

`remote.py` decides what to do about it; here every way a call can fail becomes one of four: it may
pass (`Passing`), the batch may be the reason (`Rejected`), the key may (`KeyRefused`), or a person
must change something (`EmbedderFailed`). It must never follow a redirect: the key stays with its
host.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
import httpx

from headwater.embed.provider import Call, Provider, problem
from headwater.embed.retry import retry_after_s
from headwater.errors import EmbedderFailed

MAX_ANSWER_BYTES = 128 << 20
"""Longest answer that is read: 2,048 vectors of 3,072 numbers in text have half of it."""

_MAX_PROBLEM_BYTES = 16 << 10
_MAY_PASS = frozenset({408, 409, 424, 425, 429})
_BATCH_MAY_BE_WRONG = frozenset({400, 413, 422})
_ABOUT_A_TEXT = re.compile(r"context length|too (?:long|large)|unsupported value: NaN", re.I)
"""Ollama answers 500 to a text that is too long, or that its model makes NaN of."""


class Passing(Exception):
    """It may work if tried again. `alive`: it was an answer, only not now (a rate limit)."""

    def __init__(
        self, kind: str, reason: str, *, retry_after_s: float | None = None, alive: bool = False
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.alive = alive


class Rejected(Exception):
    """The provider does not take this batch: it is too large, or a text in it is wrong."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class KeyRefused(Exception):
    """The provider does not take the key, or wants one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def post(
    client: httpx.AsyncClient,
    provider: Provider,
    call: Call,
    *,
    timeout_s: float,
    connect_s: float,
    now_us: Callable[[], int],
) -> bytes:
    """The body of a success. Raises `Passing`, `Rejected`, `KeyRefused`, `EmbedderFailed`."""
    timeout = httpx.Timeout(timeout_s, connect=min(connect_s, timeout_s))
    try:
        with anyio.fail_after(timeout_s):  # the client's own timeouts are per read
            async with client.stream(
                "POST", call.url, content=call.body, headers=call.headers, timeout=timeout
            ) as response:
                if response.is_success:
                    return await _read(response)
                said = await _problem(response, provider)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Passing("connect", "cannot be reached") from error
    except (TimeoutError, httpx.TimeoutException) as error:
        raise Passing("timeout", f"has not answered within {timeout_s:.3g} seconds") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Passing("connection", "dropped the connection") from error
    except (httpx.InvalidURL, httpx.HTTPError) as error:
        raise EmbedderFailed(
            f"{provider.host} cannot be asked ({type(error).__name__}); check its base URL"
        ) from error
    raise _meaning(response, said, provider, now_us)


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise Rejected(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


async def _problem(response: httpx.Response, provider: Provider) -> str:
    """What the body of a refusal says, in short and without the key; empty when it says nothing."""
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MAX_PROBLEM_BYTES:
            break
    said = problem(body)
    if said is None:
        said = body.decode(errors="replace").strip()
        if said.startswith("<") or said in ("{}", "[]", "null"):
            return ""  # a page of some proxy says nothing that its status does not
    return provider.redact(said)


def _meaning(
    response: httpx.Response, said: str, provider: Provider, now_us: Callable[[], int]
) -> Exception:
    status = response.status_code
    why = f"({status}): {said}" if said else f"({status})"
    if status == 500 and _ABOUT_A_TEXT.search(said):
        return Rejected(f"{said} ({status})")
    if status in _MAY_PASS or status >= 500:
        limited = status == 429
        return Passing(
            "rate_limit" if limited else "server_error",
            f"limits the rate of calls {why}" if limited else f"has an error of its own {why}",
            retry_after_s=retry_after_s(response.headers, now_us()),
            alive=limited,
        )
    if status in _BATCH_MAY_BE_WRONG:
        return Rejected(f"{said or 'no reason given'} ({status})")
    if status in (401, 403) and not provider.has_key:
        return KeyRefused(f"{provider.host} wants a key ({status}); {provider.key_advice}")
    if status == 401:
        # What it said is left out: some repeat more of the key than `redact` knows.
        return KeyRefused(f"{provider.host} refuses the key ({status}); {provider.key_advice}")
    if status == 403:
        return KeyRefused(
            f"{provider.host} does not let this key have the model {provider.model!r} {why}; "
            f"check the key's rights, or {provider.key_advice}"
        )
    if status == 404:
        return EmbedderFailed(
            f"{provider.host} does not have the model {provider.model!r}, or its base URL is wrong "
            f"{why}"
        )
    if response.has_redirect_location:
        return EmbedderFailed(
            f"{provider.host} redirects to {_host_of(response)} ({status}), which is not followed; "
            f"set {provider.url_setting} to where it is and restart"
        )
    return EmbedderFailed(f"{provider.host} refuses the call {why}")


def _host_of(response: httpx.Response) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        url = response.url.join(response.headers["location"])
    except httpx.InvalidURL:
        return "an address that is none"
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))[:200]
