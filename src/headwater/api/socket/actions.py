"""What each action does: the services' work, told as HTTP tells it.

A write that has begun is finished also when its client leaves; whatever else is under way then is
given up.
"""

from __future__ import annotations

import anyio
import msgspec
from msgspec import UNSET, UnsetType

from headwater.api import answers, wire
from headwater.api.socket.connection import Connection, Handler
from headwater.api.socket.exchange import Exchange
from headwater.api.socket.requests import (
    AckData,
    Acked,
    AddData,
    DeleteData,
    GetData,
    PingData,
    Pong,
    SearchData,
    Subscribed,
    SubscribeData,
    Unsubscribed,
    UnsubscribeData,
    UnwatchData,
    Unwatched,
    UpdateData,
    WatchData,
    Watched,
    text_of,
)
from headwater.clock import rfc3339
from headwater.errors import CursorExpired, InvalidDocument, InvalidQuery
from headwater.feeds import Selection, Wish, parse_types
from headwater.filters import parse
from headwater.model import Written
from headwater.service.drafts import DocumentInput, check_id
from headwater.service.hits import Hit
from headwater.service.render import document_json

PART_HITS = 200
"""Results in one part at most; a search for more takes its texts from the store as it goes."""
THREAD_HITS = 50
"""More, or any with vectors, are encoded in a thread."""

_GET_INCLUDES = frozenset({"chunks", "vectors"})


# ── Documents ───────────────────────────────────────────────────────────────────────────────────


async def add(socket: Connection, data: AddData, exchange: Exchange) -> None:
    library = await socket.library()
    with anyio.CancelScope(shield=True):
        written = await socket.services.documents.put(
            library,
            data,
            size_bytes=exchange.size_bytes,
            must_be_new=True,
            searchable=data.wait == "searchable",
        )
    await _wrote(socket, written, exchange)


async def update(socket: Connection, data: UpdateData, exchange: Exchange) -> None:
    library = await socket.library()
    id = check_id(data.id)
    searchable = data.wait == "searchable"
    documents = socket.services.documents
    with anyio.CancelScope(shield=True):
        if any(form is not None for form in (data.text, data.texts, data.chunks)):
            written = await documents.put(
                library,
                _replacement(data),
                size_bytes=exchange.size_bytes,
                if_version=data.if_version,
                searchable=searchable,
            )
        else:
            written = await documents.patch(
                library,
                id,
                title=data.title,
                metadata=_patch(data),
                if_version=data.if_version,
                searchable=searchable,
            )
    await _wrote(socket, written, exchange)


async def delete(socket: Connection, data: DeleteData, exchange: Exchange) -> None:
    library = await socket.library()
    with anyio.CancelScope(shield=True):
        position = await socket.services.documents.delete(
            library,
            check_id(data.id),
            if_version=data.if_version,
            searchable=data.wait == "searchable",
        )
    await exchange.whole(wire.Deleted(data.id, str(socket.services.log.cursor(position))))


async def get(socket: Connection, data: GetData, exchange: Exchange) -> None:
    if unknown := set(data.include) - _GET_INCLUDES:
        raise _unknown_include(unknown, _GET_INCLUDES)
    found = await socket.services.documents.get(
        await socket.library(), check_id(data.id), vectors="vectors" in data.include
    )
    log_id = socket.services.log.store.log_id
    await exchange.whole(document_json(found.document, found.chunks, log_id, data.include))


def _replacement(data: UpdateData) -> DocumentInput:
    return DocumentInput(
        id=data.id,
        title=None if isinstance(data.title, UnsetType) else data.title,
        text=data.text,
        texts=data.texts,
        chunks=data.chunks,
        metadata=None if isinstance(data.metadata, UnsetType) else data.metadata,
        author=data.author,
        document_type=data.document_type,
        source_url=data.source_url,
        tags=data.tags,
    )


def _patch(data: UpdateData) -> dict[str, object] | UnsetType:
    for name in ("author", "document_type", "source_url", "tags"):
        if getattr(data, name) is not None:
            raise InvalidDocument(
                f"without `text`, `texts` or `chunks` only `title` and `metadata` are changed; "
                f"put `{name}` into `metadata`"
            )
    if data.metadata is None:
        raise InvalidDocument("`metadata` is an object; in it, null removes a key")
    if data.metadata is UNSET and data.title is UNSET:
        raise InvalidDocument("nothing to change; give `title`, `metadata` or a new content")
    return data.metadata


async def _wrote(socket: Connection, written: Written, exchange: Exchange) -> None:
    await exchange.whole(wire.write_answer(written, socket.services.log.store.log_id))


# ── Search ──────────────────────────────────────────────────────────────────────────────────────


async def search(socket: Connection, data: SearchData, exchange: Exchange) -> None:
    text_of(data)
    services = socket.services
    started_s = services.clock.monotonic()
    library = await socket.library()
    parts = _Parts(exchange, services.settings.part_bytes)
    if data.k > PART_HITS and data.group_by is None:
        answer, pages = await services.search.stream(library, data)
        async for hits in pages:
            await parts.add(await _encoded(socket, hits, data))
    else:
        answer = await services.search.search(library, data)
        if answers.hits_in(answer) > THREAD_HITS or "vector" in data.include:
            found = await services.pool.call(answers.results, answer, data)
        else:
            found = answers.results(answer, data)
        await parts.add(found)
    took_ms = round((services.clock.monotonic() - started_s) * 1000, 3)
    cursor = str(services.search.cursor(answer.position))
    await parts.end(answers.rest(answer, cursor, took_ms))


async def _encoded(socket: Connection, hits: list[Hit], data: SearchData) -> list[msgspec.Raw]:
    def encode() -> list[msgspec.Raw]:
        return [answers.encoded(hit, data) for hit in hits]

    if len(hits) > THREAD_HITS or "vector" in data.include:
        return await socket.services.pool.call(encode)
    return encode()


class _Parts:
    """Results, sent as soon as they fill a part: what waits here is below two parts."""

    def __init__(self, exchange: Exchange, part_bytes: int) -> None:
        self._exchange = exchange
        self._part_bytes = part_bytes
        self._results: list[msgspec.Raw] = []
        self._size = 0

    async def add(self, results: list[msgspec.Raw]) -> None:
        for result in results:
            size = len(memoryview(result))
            full = self._size + size > self._part_bytes or len(self._results) == PART_HITS
            if self._results and full:
                await self._exchange.part(answers.encode({"results": self._results}), last=False)
                self._results, self._size = [], 0
            self._results.append(result)
            self._size += size

    async def end(self, rest: dict[str, object]) -> None:
        await self._exchange.part(answers.encode({"results": self._results, **rest}), last=True)


# ── Subscriptions and live queries ──────────────────────────────────────────────────────────────


async def subscribe(socket: Connection, data: SubscribeData, exchange: Exchange) -> None:
    if unknown := set(data.include) - {"document"}:
        raise _unknown_include(unknown, {"document"})
    most = socket.services.settings.max_unacked
    if data.max_unacked is not None and data.max_unacked > most:
        raise InvalidQuery(
            f"max_unacked is {data.max_unacked}; it may be 1 to {most}", parameter="max_unacked"
        )
    types = ",".join(data.types) if isinstance(data.types, list) else data.types
    wish = Wish(
        Selection(
            frozenset({socket.library_id}),
            parse_types(types),
            None if data.filter is None else parse(data.filter),
        ),
        data.format,
        "document" in data.include,
        "apart",
    )
    after = await socket.services.log.resolve(data.after)
    id = socket.subscribe(wish, after, data)
    try:
        await exchange.whole(Subscribed(id, str(after)))
    except BaseException:
        socket.subscriptions.pop(id, None)
        raise
    socket.tell(id)


async def unsubscribe(socket: Connection, data: UnsubscribeData, exchange: Exchange) -> None:
    channel = socket.subscription(data.subscription_id)
    del socket.subscriptions[data.subscription_id]
    channel.end()
    cursor = str(channel.subscription.cursor)
    await exchange.whole(Unsubscribed(data.subscription_id, cursor))


async def ack(socket: Connection, data: AckData, exchange: Exchange) -> None:
    subscription = socket.subscription(data.subscription_id).subscription
    try:
        cursor = await socket.services.log.parse(data.cursor)
    except CursorExpired as error:
        raise InvalidQuery(
            f"{error.detail.partition(';')[0]}; acknowledge the `id` of an event",
            parameter="cursor",
        ) from error
    subscription.ack(cursor)
    await exchange.whole(
        Acked(
            data.subscription_id,
            str(subscription.acked),
            subscription.unacked,
            subscription.lag,
        )
    )


async def watch(socket: Connection, data: WatchData, exchange: Exchange) -> None:
    text_of(data)
    channel = await socket.watch(await socket.library(), data)
    try:
        await exchange.whole(Watched(channel.id))
    except BaseException:
        channel.end()
        raise
    channel.begin.set()


async def unwatch(socket: Connection, data: UnwatchData, exchange: Exchange) -> None:
    channel = socket.open_watch(data.watch_id)
    del socket.watches[data.watch_id]
    channel.end()
    await exchange.whole(Unwatched(data.watch_id, channel.told))


async def ping(socket: Connection, data: PingData, exchange: Exchange) -> None:
    services = socket.services
    now, cursor = rfc3339(services.clock.now_us()), services.log.cursor(services.log.head)
    await exchange.whole(Pong(now, str(cursor)))


def _unknown_include(unknown: set[str], known: frozenset[str] | set[str]) -> InvalidQuery:
    return InvalidQuery(
        f"`include` knows {', '.join(sorted(known))}, not {', '.join(sorted(unknown))}",
        parameter="include",
    )


HANDLERS: dict[str, Handler] = {
    "search": search,
    "add": add,
    "update": update,
    "delete": delete,
    "get": get,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "watch": watch,
    "unwatch": unwatch,
    "ack": ack,
    "ping": ping,
}
