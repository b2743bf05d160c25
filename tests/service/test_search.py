"""Searches at the edges of what the views and the store can give."""

from __future__ import annotations

import base64
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import anyio
import msgspec
import pytest
from service.whole import put, running, search_of, whole
from store.backend import DIMENSION, draft, put_pending

from headwater.app import Parts
from headwater.changes.log import Log
from headwater.embed import Embedders
from headwater.errors import (
    AnswerTooLarge,
    EmbedderUnavailable,
    InvalidCursor,
    InvalidQuery,
    NotCaughtUp,
)
from headwater.filters import Filter
from headwater.model import Library, Metric, Passage, Position
from headwater.search.base import KeywordEngine, MetadataEngine
from headwater.search.metadata_selection import Selection
from headwater.service.hits import Hits
from headwater.service.query import Mode, Query, check
from headwater.service.search import Answer
from headwater.settings import LimitSettings, SearchSettings, Settings
from headwater.threads import Pool

TINY = SearchSettings(exact_rows=0, seal_rows=16)

pytestmark = pytest.mark.anyio


class Behind:
    """Keyword views that never catch up."""

    async def search(self, *asked: Any, **how: Any) -> Any:
        raise NotCaughtUp("not yet; ask again")


async def test_what_one_leg_raises_the_hybrid_search_raises(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts, anyio.create_task_group() as tasks:
        library = await parts.libraries.create("notes")
        await put(parts, library, "a", [("the moon", None)])
        search = search_of(parts, keyword=cast(KeywordEngine, Behind()))
        await tasks.start(search.run)
        with pytest.raises(NotCaughtUp):
            await search.search(library, Query(query="moon"))
        one, other = await search.search_all(
            library, [Query(query="moon"), Query(query="moon", mode="vector")]
        )
        assert isinstance(one, NotCaughtUp)
        assert not isinstance(other, Exception)
        tasks.cancel_scope.cancel()


async def test_a_text_without_meaning_is_found_by_its_words_alone(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes")
        for number in range(60):
            await put(parts, library, f"d{number}", [(f"the moon {number}", None)])
        await put(parts, library, "greeting", [("ስላም means hello", None)])
        answer = await parts.search.search(library, Query(query="ስላም"))
        (hit,) = answer.hits
        assert (hit.passage.document_id, hit.score) == ("greeting", 1 / 61)
        assert list(hit.legs or {}) == ["keyword"]
        assert not (await parts.search.search(library, Query(query="😀"))).hits


class Watched:
    """Metadata views whose selections are counted while they live."""

    def __init__(self, views: MetadataEngine) -> None:
        self._views = views
        self.alive: WeakSet[Selection] = WeakSet()

    async def select(self, library: Library, filter: Filter) -> tuple[Selection, Position]:
        found, position = await self._views.select(library, filter)
        assert isinstance(found, Selection)
        self.alive.add(found)
        return found, position


async def test_selections_are_let_go_of(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts, anyio.create_task_group() as tasks:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        watched = Watched(parts.metadata)
        search = search_of(parts, metadata=watched)
        await tasks.start(search.run)
        for number in range(20):  # each write makes the selections before it useless
            await put(parts, library, f"d{number}", [(None, [1, number])], {"n": number})
            await search.search(library, Query(vector=[1, 0], filter={"n": {"$gte": 0}}))
        gc.collect()
        assert len(watched.alive) <= 2
        tasks.cancel_scope.cancel()


class Overtaken:
    """Metadata views whose first selection is overtaken by a write."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.asked = 0

    async def select(self, library: Library, filter: Filter) -> tuple[Selection, Position]:
        found = await self._parts.metadata.select(library, filter)
        self.asked += 1
        if self.asked == 1:
            await self._parts.documents.patch(library, "d0", metadata={"open": False})
        return found


async def test_hit_that_stops_meeting_the_filter_meanwhile_is_not_shown(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts, anyio.create_task_group() as tasks:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(3):
            await put(parts, library, f"d{number}", [(None, [1, number])], {"open": True})
        overtaken = Overtaken(parts)
        search = search_of(parts, metadata=overtaken)
        await tasks.start(search.run)
        answer = await search.search(library, Query(vector=[1, 0], k=2, filter={"open": True}))
        assert [hit.passage.document_id for hit in answer.hits] == ["d1", "d2"]
        assert overtaken.asked == 2
        tasks.cancel_scope.cancel()


async def test_examples_in_space_are_places_and_need_vectors(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create(
            "places", embedder="none", dimension=2, metric="euclidean"
        )
        for id, place in {"a": [100, 0], "b": [101, 1], "c": [1, 0], "d": [0, 90]}.items():
            await put(parts, library, id, [(None, place)])
        found = await parts.search.search(library, Query(like=["a"]))
        assert [hit.passage.document_id for hit in found.hits] == ["b", "c", "d"]
        found = await parts.search.search(library, Query(like=["c"], unlike=["d"], k=1))
        assert [hit.passage.document_id for hit in found.hits] == ["a"]
        other = await parts.libraries.create("later", embedder="none", dimension=DIMENSION)
        await parts.store.write(put_pending(other, draft("late", "text")))
        await put(parts, other, "there", [(None, [1.0] * DIMENSION)])
        for query in (Query(like=["late"]), Query(like=["there"], unlike=["late"])):
            with pytest.raises(InvalidQuery, match="no vectors"):
                await parts.search.search(other, query)


async def test_examples_that_cancel_each_other_out_are_refused(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        metrics: tuple[Metric, ...] = ("cosine", "dot", "euclidean")
        for metric in metrics:
            library = await parts.libraries.create(
                metric, embedder="none", dimension=2, metric=metric
            )
            for id, vector in (("a", [3, 4]), ("zero", [0, 0]), ("b", [1, 0])):
                await put(parts, library, id, [(None, vector)])
            for query in (Query(like=["a"], unlike=["a"]), Query(like=["zero"])):
                if metric == "euclidean":
                    assert (await parts.search.search(library, query)).hits
                else:
                    with pytest.raises(InvalidQuery, match="point nowhere"):
                        await parts.search.search(library, query)


async def test_a_text_is_looked_for_by_words_where_nothing_is_embedded(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        await put(parts, library, "a", [("the moon", [1, 0])])
        await put(parts, library, "b", [("the sea", [1, 0])])
        for query in (Query(query="moon", score_threshold=0.1), Query(query="moon", mmr=0.5)):
            answer = await parts.search.search(library, query)
            assert [hit.passage.document_id for hit in answer.hits] == ["a"]


@pytest.mark.parametrize("chunks", [3, 60, 150])
@pytest.mark.parametrize("filter", [None, {"open": True}])
async def test_examples_of_many_chunks_hide_nothing_behind_them(
    tmp_path: Path, chunks: int, filter: dict[str, Any] | None
) -> None:
    settings = Settings(data=tmp_path, limits=LimitSettings(k=20), search=TINY)
    async with running(settings) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        near = [(None, [100, number / chunks]) for number in range(chunks)]
        await put(parts, library, "example", near, {"open": True})
        for number in range(40):
            await put(parts, library, f"d{number}", [(None, [10, number + 10])], {"open": True})
        await put(parts, library, "other", [(None, [10, 9])], {"open": not filter})
        expected = [] if filter else ["other"]
        expected = [*expected, *(f"d{number}" for number in range(40))][:20]
        found: list[str] = []
        query = Query(like=["example"], k=6, filter=filter)
        while True:
            answer = await parts.search.search(library, query)
            found += [hit.passage.document_id for hit in answer.hits]
            if answer.next is None:
                break
            query.after = answer.next
        assert found[:20] == expected
        whole_answer = await parts.search.search(library, Query(like=["example"], k=20))
        assert len(whole_answer.hits) == 20


async def test_streamed_search_is_as_diverse_as_a_plain_one(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(12):
            await put(parts, library, f"d{number}", [(None, [10, number // 3 * 4])])
        wish = Query(vector=[1, 0], k=4, mmr=0.1)
        plain = [hit.passage.document_id for hit in (await parts.search.search(library, wish)).hits]
        _, pages = await parts.search.stream(library, wish)
        assert [hit.passage.document_id async for page in pages for hit in page] == plain
        assert plain != ["d0", "d1", "d2", "d3"]
        with pytest.raises(InvalidQuery, match="group_by"):
            await parts.search.search(library, Query(vector=[1, 0], mmr=0.1, group_by="document"))


class Silent:
    async def embed(self, texts: Any, kind: str) -> Any:
        raise EmbedderUnavailable("nobody answers")


async def test_pages_of_a_search_by_words_alone_go_on_by_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes")
        for number in range(9):
            await put(parts, library, f"d{number}", [("the moon " + "again " * number, None)])
        whole_answer = await parts.search.search(library, Query(query="moon", mode="keyword"))
        fused = await parts.search.search(library, Query(query="moon", k=4))
        with monkeypatch.context() as patched:
            patched.setattr(Embedders, "bound", lambda self, library: Silent())
            first = await parts.search.search(library, Query(query="moon", k=4))
            assert first.degraded == "nobody answers"
            # A page of a fused ranking has no place in a ranking by words.
            with pytest.raises(EmbedderUnavailable):
                await parts.search.search(library, Query(query="moon", k=4, after=fused.next))
        rest = await parts.search.search(library, Query(query="moon", k=9, after=first.next))
        assert [hit.passage.row for hit in [*first.hits, *rest.hits]] == [
            hit.passage.row for hit in whole_answer.hits
        ]


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
async def test_pages_by_words_go_on_behind_the_last_hit_though_its_score_has_moved(
    tmp_path: Path, mode: Any
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes")
        for number in range(40):
            words = f"the moon{' and the sea' * number}"
            await put(parts, library, f"d{number}", [(words, None)])

        async def page(after: str | None, k: int) -> tuple[list[str], str | None]:
            answer = await parts.search.search(
                library, Query(query="moon", mode=mode, k=k, after=after)
            )
            return [hit.passage.document_id for hit in answer.hits], answer.next

        whole_list, _ = await page(None, 40)
        first, after = await page(None, 5)
        for number in range(5):  # the best of both lists, so every score and rank falls
            await put(parts, library, f"new-{number}", [("moon", None)])
        rest: list[str] = []
        while after is not None:
            some, after = await page(after, 5)
            rest += some
        assert not set(first) & set(rest)
        assert [id for id in first + rest if id.startswith("d")] == whole_list


async def test_a_page_by_words_goes_on_by_score_where_the_last_hit_is_gone(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(12):
            await put(parts, library, f"d{number}", [(f"moon{' sea' * number}", [1, 0])])
        query = Query(query="moon", k=4)
        answer = await parts.search.search(library, query)
        await parts.documents.delete(library, answer.hits[-1].passage.document_id)
        query.after = answer.next
        assert answer.hits[-1].passage.document_id == "d3"
        answer = await parts.search.search(library, query)
        assert [hit.passage.document_id for hit in answer.hits] == ["d4", "d5", "d6", "d7"]


async def test_a_page_belongs_to_its_library_and_to_the_vectors_it_was_found_by(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path) as parts:
        one, other = [await parts.libraries.create(name) for name in ("one", "other")]
        for library in (one, other):
            for number in range(9):
                await put(parts, library, f"d{number}", [(f"the moon {number}", None)])
        made_anew = msgspec.structs.replace(one, generation=one.generation + 1)
        modes: tuple[Mode, ...] = ("vector", "keyword", "hybrid")
        for mode in modes:
            answer = await parts.search.search(one, Query(query="moon", mode=mode, k=3))
            query = Query(query="moon", mode=mode, k=5, after=answer.next)
            assert len((await parts.search.search(one, query)).hits) == 5
            with pytest.raises(InvalidCursor, match="another search"):
                await parts.search.search(other, query)
            if mode == "keyword":
                assert check(query, made_anew, LimitSettings()).page is not None
            else:
                with pytest.raises(InvalidCursor, match="another search"):
                    check(query, made_anew, LimitSettings())


async def test_token_with_another_depth_is_no_bug(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes")
        for number in range(5):
            await put(parts, library, f"d{number}", [(f"moon {number}", None)])
        token = (await parts.search.search(library, Query(query="moon", k=1))).next
        assert token is not None
        packed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for depth in (0, (1 << 32) - 1):
            changed = base64.urlsafe_b64encode(packed[:-4] + depth.to_bytes(4, "big")).decode()
            wish = Query(query="moon", after=changed.rstrip("="))
            assert len((await parts.search.search(library, wish)).hits) == 4
        wish = Query(query="moon", mode="vector", score_threshold=float("nan"))
        with pytest.raises(InvalidQuery, match="score_threshold"):
            await parts.search.search(library, wish)


def narrow(folder: Path, answer_bytes: int) -> Settings:
    return Settings(data=folder, limits=LimitSettings(answer_bytes=answer_bytes))


async def test_answers_have_a_limit_that_streams_do_not(tmp_path: Path) -> None:
    async with running(narrow(tmp_path, 10_000)) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(30):
            text = "word " * 200
            await put(parts, library, f"d{number}", [(text, [10, number])] * 2, {"n": number})
        find = parts.search.search
        assert len((await find(library, Query(vector=[1, 0], k=9))).hits) == 9
        with pytest.raises(AnswerTooLarge, match="10,000 bytes") as caught:
            await find(library, Query(vector=[1, 0], k=10))
        assert caught.value.fields == {"limit_bytes": 10_000}
        # What is looked at to make groups, and for diversity, is not in the answer.
        grouped = await find(library, Query(vector=[1, 0], k=9, group_by="document", group_size=1))
        assert [len(group.hits) for group in grouped.groups or ()] == [1] * 9
        with pytest.raises(AnswerTooLarge):
            await find(library, Query(vector=[1, 0], k=9, group_by="document", group_size=2))
        assert len((await find(library, Query(vector=[1, 0], k=5, mmr=0.5))).hits) == 5
        answer, pages = await parts.search.stream(library, Query(vector=[1, 0], k=60))
        assert sum([len(page) async for page in pages]) == 60
        assert answer.exact


async def test_pages_of_a_stream_are_shorter_where_passages_are_long(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(40):
            text = "x" * (1 << 20 if number < 25 else 10)
            await put(parts, library, f"d{number}", [(text, [100, number])])
        _, pages = await parts.search.stream(library, Query(vector=[1, 0], k=40))
        assert [len(page) async for page in pages] == [10, 7, 7, 7, 9]


async def test_vectors_count_as_they_are_sent(tmp_path: Path) -> None:
    async with running(narrow(tmp_path, 40_000)) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=200)
        for number in range(12):
            await put(parts, library, f"d{number}", [(None, [1.0, number] * 100)])
        query = Query(vector=[1.0] * 200, k=9, include=["vector"])
        assert len((await parts.search.search(library, query)).hits) == 9
        query.k = 10
        with pytest.raises(AnswerTooLarge):
            await parts.search.search(library, query)
        query.include = []
        assert len((await parts.search.search(library, query)).hits) == 10


async def test_answers_of_a_batch_share_the_room_and_those_refused_take_none(
    tmp_path: Path,
) -> None:
    async with running(narrow(tmp_path, 10_000)) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(30):
            await put(parts, library, f"d{number}", [("word " * 200, [10, number])])
        queries = [Query(vector=[1, 0], k=k) for k in (20, 3, 20, 3, 20, 3, 5)]
        one, *others = await parts.search.search_all(library, queries)
        assert isinstance(one, AnswerTooLarge)
        found = [answer for answer in others if isinstance(answer, Answer)]
        assert sum(len(answer.hits) for answer in found) <= 9
        alone = await parts.search.search_all(library, [queries[0], queries[1]])
        assert [isinstance(answer, Answer) for answer in alone] == [False, True]


class Losing(Hits):
    """The first answer loses a hit on its way, as when a document is deleted just then."""

    def __init__(self, log: Log, pool: Pool) -> None:
        super().__init__(log, pool)
        self.lost: Sequence[int] = ()

    async def passages(
        self, library: Library, rows: Sequence[int], **how: Any
    ) -> dict[int, Passage]:
        if not self.lost:
            self.lost, rows = rows[:1], rows[1:]
        return await super().passages(library, rows, **how)


async def test_an_answer_that_is_made_again_takes_its_room_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.service.search.Hits", Losing)
    async with running(narrow(tmp_path, 10_000)) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(9):
            await put(parts, library, f"d{number}", [("word " * 200, [10, number])])
        assert len((await parts.search.search(library, Query(vector=[1, 0], k=9))).hits) == 9
