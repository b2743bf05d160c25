"""Embedding now or later, on a real store, with an embedder that does as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from service.obedient import NEVER, down, opened, refusing
from store.backend import DIMENSION, draft, put_pending, vector

from headwater.clock import SystemClock
from headwater.errors import (
    EmbedderFailed,
    EmbedderUnavailable,
    LibraryNotFound,
    Overloaded,
)
from headwater.model import Document, Library, Vectors
from headwater.service.embedding import (
    BATCH_DOCUMENTS,
    REFUSED_IN_A_ROW,
    Failure,
)
from headwater.store.library_commands import DeleteLibrary

pytestmark = pytest.mark.anyio


def tried_twice(left: dict[str, Document]) -> bool:
    """When written and once more since."""
    return all(document.pending and document.pending.attempts == 2 for document in left.values())


# ── Writes ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_write_gets_its_vectors(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.library()
        found = await house.embedding.vectors(library, ["a", "b"])
        assert isinstance(found, np.ndarray)
        assert found.tolist() == [vector("a").tolist(), vector("b").tolist()]


async def test_a_write_waits_for_a_bounded_time_and_the_next_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library, other = await house.library(), await house.library("other")
        house.bound(library).gate = anyio.Event()
        slow = await house.embedding.vectors(library, ["a"])
        assert isinstance(slow, Failure)
        assert (slow.tried, slow.error.code) == (True, "embedder_unavailable")
        again = await house.embedding.vectors(library, ["b"])
        assert isinstance(again, Failure)
        assert not again.tried
        assert house.bound(library).asked == [["a"]]
        assert not isinstance(await house.embedding.vectors(other, ["c"]), Failure)


async def test_one_write_at_a_time_finds_out_how_a_hung_embedder_is(tmp_path: Path) -> None:
    patient = NEVER.model_copy(update={"write_wait": timedelta(hours=1)})
    async with opened(tmp_path, patient, run=False) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = down
        assert isinstance(await house.embedding.vectors(library, ["a"]), Failure)
        house.embedding._rests[library.id].writes_until = 0
        embedder.rule = lambda texts: None
        embedder.gate = gate = anyio.Event()
        found: list[object] = []
        async with anyio.create_task_group() as writes:

            async def write(text: str) -> None:
                found.append(await house.embedding.vectors(library, [text]))

            writes.start_soon(write, "b")
            await embedder.times(2)
            # The answer to "b" may take an hour; who comes now does not wait for it.
            for text in "cde":
                failure = await house.embedding.vectors(library, [text])
                assert isinstance(failure, Failure)
                assert not failure.tried
            gate.set()
        assert not isinstance(found[0], Failure)
        assert embedder.asked == [["a"], ["b"]]
        assert not isinstance(await house.embedding.vectors(library, ["f"]), Failure)


async def test_the_bundled_embedder_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library, other = await house.library(), await house.library("other")
        bundled = Library(**{**_fields(library), "embedder": "static"})
        embedder = house.bound(bundled)
        embedder.gate = gate = anyio.Event()
        house.bound(other).gate = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def let_it_go() -> None:
                await embedder.times(1)
                # A provider that is asked later has been given up: so long has passed, at least.
                assert isinstance(await house.embedding.vectors(other, ["b"]), Failure)
                gate.set()

            tasks.start_soon(let_it_go)
            assert not isinstance(await house.embedding.vectors(bundled, ["a"]), Failure)


@pytest.mark.parametrize("error", [EmbedderUnavailable("x"), EmbedderFailed("x"), Overloaded("x")])
async def test_every_failure_of_an_embedder_is_one_to_be_stored(tmp_path: Path, error: Any) -> None:
    async with opened(tmp_path, run=False) as house:
        library = await house.library()
        house.bound(library).rule = lambda texts: error
        failure = await house.embedding.vectors(library, ["a"])
        assert isinstance(failure, Failure)
        assert failure.error is error


async def test_a_refusal_leaves_the_embedder_in_use(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER, run=False) as house:
        library = await house.library()
        house.bound(library).rule = refusing("bad")
        failure = await house.embedding.vectors(library, ["bad"])
        assert isinstance(failure, Failure)
        assert not isinstance(await house.embedding.vectors(library, ["good"]), Failure)


async def test_a_wrong_shape_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, run=False) as house:
        library = await house.library()

        async def wrong(texts: Sequence[str], kind: str = "document") -> Vectors:
            return np.zeros((len(texts), DIMENSION + 1), np.float32)

        monkeypatch.setattr(house.bound(library), "embed", wrong)
        failure = await house.embedding.vectors(library, ["a"])
        assert isinstance(failure, Failure)
        assert failure.error.code == "embedder_failed"


# ── In the background ───────────────────────────────────────────────────────────────────────────


async def test_what_is_pending_is_embedded_oldest_first_in_batches(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.library()
        ids = [f"d{n:03}" for n in range(700)]
        await house.put(library, *ids)
        await house.come_to(library, set())
        assert await house.embedded() == ids
        asked = house.bound(library).asked
        assert [text for texts in asked for text in texts] == ids
        assert max(map(len, asked)) == BATCH_DOCUMENTS


async def test_an_outage_is_outlived_and_every_document_embedded_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = down
        await house.put(library, "a", "b")
        await embedder.times(4)
        left = await house.left(library)
        assert all(document.pending for document in left.values())
        embedder.rule = lambda texts: None
        await house.come_to(library, set())
        assert await house.embedded() == ["a", "b"]


async def test_attempts_and_the_last_error_are_kept_over_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        house.bound(library).rule = down
        await house.put(library, "a")
        pending = (await house.until(library, tried_twice))["a"].pending
        assert pending is not None
        assert (pending.code, pending.detail) == ("embedder_unavailable", "it is down")
        assert pending.retryable
    async with opened(tmp_path, NEVER) as house:
        await house.come_to(library, set())
        assert await house.embedded() == ["a"]


async def test_a_failing_library_and_a_hanging_one_hold_up_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        failing, hanging = await house.library("failing"), await house.library("hanging")
        good = await house.library("good")
        house.bound(failing).rule = down
        house.bound(hanging).gate = gate = anyio.Event()
        await house.put(failing, "a")
        await house.put(hanging, "b")
        await house.bound(hanging).times(1)
        await house.put(good, *(f"d{n}" for n in range(100)))
        await house.come_to(good, set())
        assert (await house.left(failing)).keys() == {"a"}
        assert (await house.left(hanging)).keys() == {"b"}
        gate.set()
        await house.come_to(hanging, set())


async def test_refused_documents_are_put_aside_one_by_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = refusing("d3", "d7")
        await house.put(library, *(f"d{n}" for n in range(10)))
        left = await house.come_to(library, {"d3", "d7"})
        soon = SystemClock().now_us() + 3_600_000_000
        for document in left.values():
            assert document.pending is not None
            assert not document.pending.retryable
            assert document.pending.due_us > soon
        asked = len(embedder.asked)
        # New ones come before those, and asking for all brings those back.
        await house.put(library, "d10")
        await house.come_to(library, {"d3", "d7"})
        assert len(embedder.asked) == asked + 1
        embedder.rule = lambda texts: None
        assert await house.embedding.redrive(library) == 2
        await house.come_to(library, set())
        assert sorted(map(str, await house.embedded())) == sorted(f"d{n}" for n in range(11))


async def test_one_document_with_wrong_answers_holds_up_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: (
            EmbedderFailed("not finite", retryable=True) if "d5" in texts else None
        )
        await house.put(library, *(f"d{n}" for n in range(20)))
        left = await house.come_to(library, {"d5"})
        pending = left["d5"].pending
        assert pending is not None
        assert pending.due_us > SystemClock().now_us() + 3_600_000_000
        # The embedder is in use as before.
        await house.put(library, "d20")
        await house.come_to(library, {"d5"})


async def test_wrong_answers_to_everything_are_not_asked_for_each(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: EmbedderFailed("no JSON", retryable=True)
        await house.put(library, *(f"d{n}" for n in range(60)))
        await house.until(library, tried_twice)
        assert [len(texts) for texts in embedder.asked] == [60, 1]


async def test_one_document_at_which_the_embedder_breaks_holds_up_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: down(texts) if "d5" in texts else None
        await house.put(library, *(f"d{n}" for n in range(40)))
        await house.come_to(library, {"d5"})
        soon = SystemClock().now_us() + 3_600_000_000

        def put_aside(left: dict[str, Document]) -> bool:
            pending = left["d5"].pending
            return pending is not None and pending.due_us > soon

        await house.until(library, put_aside)
        asked = len(embedder.asked)
        await house.put(library, "d40")
        await house.come_to(library, {"d5"})
        assert embedder.asked[asked:] == [["d40"]]


async def test_an_embedder_that_refuses_everything_is_not_asked_for_each(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: EmbedderFailed("no such key")
        await house.put(library, *(f"d{n}" for n in range(60)))
        left = await house.until(library, tried_twice)
        assert [len(texts) for texts in embedder.asked] == [60, 1]
        soon = SystemClock().now_us() + 60_000_000
        assert all(d.pending is not None and d.pending.due_us < soon for d in left.values())


async def test_no_document_is_blamed_for_a_wrong_key_that_is_put_right(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: EmbedderFailed("no such key")
        await house.put(library, "a")
        await embedder.times(8)
        embedder.rule = lambda texts: None
        await house.come_to(library, set())


async def test_many_refused_documents_are_found_a_few_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: None if texts == ["word"] else EmbedderFailed("too long")
        await house.put(library, *(f"d{n}" for n in range(60)))
        await house.until(library, tried_twice)
        assert len(embedder.asked) < 20
        aside = SystemClock().now_us() + 3_600_000_000
        left = await house.left(library)
        assert sum(d.pending is not None and d.pending.due_us > aside for d in left.values()) == (
            REFUSED_IN_A_ROW
        )


async def test_asking_for_all_ends_the_backoff_and_a_healed_write_too(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = down
        await house.put(library, "a")
        await embedder.times(1)
        assert await house.embedding.redrive(library) == 1
        await embedder.times(2)
        embedder.rule = lambda texts: None
        assert await house.embedding.redrive(library) == 1
        await house.come_to(library, set())

        embedder.rule = down
        await house.put(library, "b")
        await embedder.times(4)
        embedder.rule = lambda texts: None
        house.embedding._rests[library.id].writes_until = 0
        assert not isinstance(await house.embedding.vectors(library, ["c"]), Failure)
        await house.come_to(library, set())


async def test_another_process_asks_for_all_through_the_store(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER) as house:
        library = await house.library()
        house.bound(library).rule = down
        await house.put(library, "a", "b")
        await house.bound(library).times(1)
        house.bound(library).rule = lambda texts: None
        async with opened(tmp_path, run=False) as other:
            assert await other.embedding.redrive(library) == 2
        await house.come_to(library, set())


async def test_a_document_with_some_vectors_is_embedded_in_the_rest(tmp_path: Path) -> None:
    async with opened(tmp_path, run=False) as house:
        library = await house.library()
        await house.store.write(put_pending(library, draft("p", "a", "b", "c"), lacking=["b"]))
        async with anyio.create_task_group() as tasks:
            await tasks.start(house.embedding.run)
            await house.come_to(library, set())
            tasks.cancel_scope.cancel()
        assert house.bound(library).asked == [["b"]]
        _, vectors = await house.store.read(lambda r: r.vectors_after(library.number, 0, 9))
        assert vectors.tolist() == [vector(text).tolist() for text in "abc"]


async def test_a_deleted_library_ends_its_retries(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library, other = await house.library(), await house.library("other")
        embedder = house.bound(library)
        embedder.gate = gate = anyio.Event()
        await house.put(library, "a")
        await embedder.times(1)
        await house.store.write(DeleteLibrary(library.number))
        gate.set()
        await house.put(other, "b")
        await house.come_to(other, set())
        with pytest.raises(LibraryNotFound):
            await house.embedding.redrive(library)


async def test_a_broken_embedder_ends_no_other_librarys_retries(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library, other = await house.library(), await house.library("other")
        house.bound(library).rule = lambda texts: ValueError("a bug")
        await house.put(library, "a")
        await house.bound(library).times(1)
        await house.put(other, "b")
        await house.come_to(other, set())
        house.bound(library).rule = lambda texts: None
        await house.come_to(library, set())


def _fields(library: Library) -> dict[str, Any]:
    return {name: getattr(library, name) for name in library.__struct_fields__}
