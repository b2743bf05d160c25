"""The embedders this server can run, by name.

`app.py` builds and runs one `Embedders`; `service` asks it when a library is created and for the
embedder of a library. An embedder starts when a library first needs it and is then shared by all.
A library is bound to one exact model for life: vectors of two models must never meet in one index,
so a library of another identity is refused, not re-used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.abc

from headwater.clock import Clock, SystemClock
from headwater.embed import plugins
from headwater.embed.base import Embedder, Kind
from headwater.embed.hosted import Hosted
from headwater.embed.none import NoneEmbedder
from headwater.embed.provider import host_of
from headwater.embed.query_cache import QueryCache
from headwater.embed.static import StaticEmbedder
from headwater.errors import EmbedderMismatch, EmbedderUnavailable, InvalidLibrary, Overloaded
from headwater.model import Library, Vectors
from headwater.settings import EmbedSettings

REMOTE = ("cohere", "openai")
LOCAL = {"fastembed": "fastembed", "sentence-transformers": "sentence_transformers"}
"""Extras, and the module that each needs."""

_NAME_CHARS = 256


class _Name(NamedTuple):
    full: str
    kind: str
    model: str

    @property
    def remote(self) -> bool:
        """Whether one model may be asked for vectors of several widths."""
        return self.kind in REMOTE


class Embedders:
    """The known embedders, each running from its first use on. Loop only."""

    def __init__(self, settings: EmbedSettings | None = None, clock: Clock | None = None) -> None:
        """Raises `Refused` when the bundled model is missing."""
        self._settings = settings or EmbedSettings()
        self._clock = clock or SystemClock()
        self._cache = QueryCache(self._settings.cache_bytes)
        self._group: anyio.abc.TaskGroup | None = None
        self._none = NoneEmbedder()
        static = StaticEmbedder()
        self._static = Hosted(
            static.name,
            lambda: static,
            self._cache,
            self._clock,
            identity=static.identity,
            dimension=static.dimension,
        )
        self._hosted: dict[tuple[str, int | None], Hosted] = {(static.name, None): self._static}

    @property
    def names(self) -> tuple[str, ...]:
        """What may stand as a library's `embedder`, `<model>` being for the caller to choose."""
        models = [f"{kind}:<model>" for kind in (*REMOTE, *LOCAL)]
        return tuple(sorted({"static", "none", *models, *plugins.declared()}))

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run what is needed until cancelled; started when the bundled model has loaded."""
        async with anyio.create_task_group() as group:
            self._attach(group)
            await self._static.ready()
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._attach(None)

    def get(self, name: str) -> Embedder:
        """Raises `InvalidLibrary` that names the known ones."""
        return self._none if name == "none" else self._host(self._parse(name), None)

    async def describe(self, name: str, dimension: int | None) -> tuple[str, int]:
        """The identity and dimension a new library is bound to.

        `dimension` may be left out where the embedder has one of its own, and must be given for
        `none`. An embedder over HTTP is asked for a word: to learn its dimension, or to see that
        it makes vectors of the given one; with that given, it need not be reachable.

        Raises `InvalidLibrary`, `EmbedderFailed`, `EmbedderUnavailable`.
        """
        if dimension is not None and dimension < 1:
            raise InvalidLibrary(f"`dimension` is {dimension}; it must be 1 or more")
        self._check_allowed(name)
        if name == "none":
            if dimension is None:
                raise InvalidLibrary(
                    f"with the embedder {name!r} vectors come from you: say their `dimension`"
                )
            return self._none.identity, dimension
        parsed = self._parse(name)
        key = (name, dimension if parsed.remote else None)
        known = key in self._hosted
        hosted = self._host(parsed, dimension)
        try:
            if not hosted.dimension:
                await hosted.ready()
            if parsed.remote and dimension is not None:
                with suppress(EmbedderUnavailable, Overloaded):
                    await hosted.embed(["word"], "query")
            known = True
        finally:
            if not known and self._hosted.get(key) is hosted:
                del self._hosted[key]
                hosted.stop()
        if dimension not in (None, hosted.dimension):
            raise InvalidLibrary(
                f"the embedder {name!r} makes vectors of {hosted.dimension} dimensions, "
                f"not {dimension}; leave `dimension` out"
            )
        if parsed.remote:
            self._settle(key, hosted)
        return hosted.identity, hosted.dimension

    def bound(self, library: Library) -> Embedder:
        """The embedder of `library`. Raises `EmbedderMismatch` when it is not the one running.

        Where the identity is known only once the embedder has started, its `embed` raises that.
        """
        if library.embedder == "none":
            if library.embedder_identity != self._none.identity:
                raise _mismatch(library, self._none.identity)
            return NoneEmbedder(library.dimension)
        try:
            hosted = self._host(self._parse(library.embedder), library.dimension)
        except InvalidLibrary as error:
            raise _mismatch(library, None) from error
        if not hosted.identity:
            return _Unproven(hosted, library)
        _check(hosted, library)
        return hosted

    def statistics(self) -> dict[str, Any]:
        """Which embedders there are and what those in use have done. Holds no secret."""
        settings = self._settings
        keys = {"cohere": settings.cohere_api_key, "openai": settings.openai_api_key}
        urls = {"cohere": settings.cohere_base_url, "openai": settings.openai_base_url}
        available: list[dict[str, Any]] = [{"name": "static"}, {"name": "none"}]
        for kind in REMOTE:
            key = keys[kind] is not None
            available.append({"name": f"{kind}:<model>", "host": host_of(urls[kind]), "key": key})
        for kind, module in LOCAL.items():
            installed = importlib.util.find_spec(module) is not None
            available.append({"name": f"{kind}:<model>", "installed": installed})
        available += [
            {"name": point.name, "plug_in": point.value} for point in plugins.declared().values()
        ]
        return {
            "available": available,
            "embedders": [
                hosted.statistics() for hosted in self._hosted.values() if hosted.state != "idle"
            ],
            "query_cache": self._cache.statistics(),
        }

    def _attach(self, group: anyio.abc.TaskGroup | None) -> None:
        self._group = group
        for hosted in self._hosted.values():
            hosted.attach(group)

    def _parse(self, name: str) -> _Name:
        """Raises `InvalidLibrary`."""
        kind, colon, model = name.partition(":")
        if len(name) > _NAME_CHARS or not name.isprintable():
            raise InvalidLibrary(
                f"an embedder's name has up to {_NAME_CHARS} visible characters; this one is "
                f"{name[:80]!r}"
            )
        needs_model = kind in REMOTE or kind in LOCAL
        if needs_model and not model:
            raise InvalidLibrary(f"say which model of {kind}: `{kind}:<model>`")
        if (
            needs_model
            or name == "static"
            or (kind in plugins.declared() and bool(colon) is bool(model))
        ):
            return _Name(name, kind, model)
        raise InvalidLibrary(
            f"there is no embedder {name[:80]!r}; choose one of {', '.join(self.names)}"
        )

    def _check_allowed(self, name: str) -> None:
        patterns = [pattern.strip() for pattern in self._settings.allowed.split(",")]
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            raise InvalidLibrary(
                f"this server allows no new library the embedder {name[:80]!r}; it allows "
                f"{', '.join(patterns)} (`embed.allowed`)"
            )

    def _host(self, name: _Name, dimension: int | None) -> Hosted:
        key = (name.full, dimension if name.remote else None)
        hosted = self._hosted.get(key)
        if hosted is None:
            identity = ""
            if name.remote and dimension is not None:
                url = getattr(self._settings, f"{name.kind}_base_url")
                identity = f"{name.full}:{dimension}@{host_of(url)}"
            hosted = self._hosted[key] = Hosted(
                name.full,
                partial(self._make, name, dimension),
                self._cache,
                self._clock,
                identity=identity,
                dimension=(dimension or 0) if name.remote else 0,
            )
            hosted.attach(self._group)
        return hosted

    def _settle(self, key: tuple[str, int | None], hosted: Hosted) -> None:
        """From now on `hosted` is the one of its name and dimension, unless there is one."""
        if key[1] is None and self._hosted.get(key) is hosted:
            del self._hosted[key]
        if self._hosted.setdefault((key[0], hosted.dimension), hosted) is not hosted:
            hosted.stop()

    def _make(self, name: _Name, dimension: int | None) -> Embedder:
        """In a thread. Each kind is imported when it is first used: some are heavy."""
        settings = self._settings
        if name.kind in REMOTE:
            from headwater.embed.cohere import Cohere
            from headwater.embed.openai import OpenAI
            from headwater.embed.remote import RemoteEmbedder

            provider = (
                OpenAI(name.model, settings.openai_base_url, settings.openai_api_key)
                if name.kind == "openai"
                else Cohere(name.model, settings.cohere_base_url, settings.cohere_api_key)
            )
            if getattr(settings, f"{name.kind}_api_key_file") is not None:
                provider.key_again = partial(settings.key_again, name.kind)
            return RemoteEmbedder(provider, dimension, settings, self._clock)
        if name.kind == "fastembed":
            from headwater.embed.fastembed import FastEmbed

            return FastEmbed(name.kind, name.model)
        if name.kind == "sentence-transformers":
            from headwater.embed.sentence_transformers import SentenceTransformers

            return SentenceTransformers(name.kind, name.model)
        return plugins.make(plugins.declared()[name.kind], name.model)


class _Unproven(Embedder):
    """The embedder of a library before it is known to be the one that the library is bound to."""

    def __init__(self, hosted: Hosted, library: Library) -> None:
        self.name = hosted.name
        self.identity = library.embedder_identity
        self.dimension = library.dimension
        self._hosted = hosted
        self._library = library

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await anyio.sleep_forever()

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """As the embedder itself; raises `EmbedderMismatch` when it is another."""
        await self._hosted.ready()
        _check(self._hosted, self._library)
        return await self._hosted.embed(texts, kind)


def _check(hosted: Hosted, library: Library) -> None:
    if hosted.identity != library.embedder_identity or hosted.dimension != library.dimension:
        raise _mismatch(library, hosted.identity)


def _mismatch(library: Library, running: str | None) -> EmbedderMismatch:
    here = f"runs {running!r}" if running else f"has no embedder {library.embedder!r}"
    return EmbedderMismatch(
        f"the vectors of library {library.name!r} come from "
        f"{library.embedder_identity!r}, but this server {here}; serve it with "
        "what made it, or make its vectors anew with POST /v1/jobs/regenerate-embeddings",
        stored=library.embedder_identity,
        running=running,
    )
