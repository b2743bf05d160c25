"""The spool: bytes in order, bounded in memory and on disk, for readers of any speed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import anyio
import pytest

from headwater.service.spool import Spool
from headwater.threads import Pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool(memory_bytes=100, file_bytes=1_000, pool=Pool("test", 2))
    yield spool
    spool.close()


async def drain(spool: Spool) -> bytes:
    out = b""
    while (piece := await spool.get()) is not None:
        out += piece
    return out


async def test_what_fits_in_memory_never_touches_a_file(spool: Spool) -> None:
    await spool.put(b"a" * 60)
    await spool.put(b"b" * 40)
    assert not spool.spilled
    assert spool._file is None
    spool.end()
    assert await spool.get() == b"a" * 60 + b"b" * 40
    assert await spool.get() is None
    assert await spool.get() is None


async def test_what_spills_comes_out_in_order_in_bounded_pieces(spool: Spool) -> None:
    pieces = [bytes([65 + n]) * 90 for n in range(10)]
    for piece in pieces:
        await spool.put(piece)
    assert spool.spilled
    spool.end()
    out = b""
    while (part := await spool.get()) is not None:
        assert len(part) <= 100
        out += part
    assert out == b"".join(pieces)


async def test_a_full_file_holds_the_writer_back_until_somebody_reads(spool: Spool) -> None:
    for _ in range(11):
        await spool.put(b"x" * 100)
    done = anyio.Event()

    async def one_more() -> None:
        await spool.put(b"y" * 100)
        done.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one_more)
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            assert await spool.get() == b"x" * 100  # memory: the file is as full as before
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            assert await spool.get() == b"x" * 100  # from the file
            await done.wait()
        spool.end()
        assert await drain(spool) == b"x" * 900 + b"y" * 100


async def test_a_piece_larger_than_the_file_still_passes(spool: Spool) -> None:
    with anyio.fail_after(10):
        await spool.put(b"z" * 5_000)
        spool.end()
        assert await drain(spool) == b"z" * 5_000


async def test_the_file_begins_anew_once_it_was_read(spool: Spool) -> None:
    for _ in range(50):
        for _ in range(5):
            await spool.put(b"w" * 100)
        out = b""
        while len(out) < 500:
            out += await spool.get() or b""
        assert spool._file is not None
        assert spool._file.seek(0, 2) == 0
        assert not spool.spilled


async def test_a_waiting_reader_hears_of_a_piece_and_of_the_end(spool: Spool) -> None:
    got: list[bytes | None] = []

    async def read() -> None:
        got.append(await spool.get())
        got.append(await spool.get())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await spool.put(b"news")
            await anyio.wait_all_tasks_blocked()
            assert got == [b"news"]
            spool.end()
    assert got == [b"news", None]


@pytest.mark.parametrize("seed", range(5))
async def test_order_holds_while_reader_and_writer_race(spool: Spool, seed: int) -> None:
    rng = random.Random(seed)
    sent = [rng.randbytes(rng.randint(1, 150)) for _ in range(300)]
    waits = [rng.random() < 0.3 for _ in range(300)]

    async def write() -> None:
        for piece, wait in zip(sent, waits, strict=True):
            await spool.put(piece)
            if wait:
                await anyio.lowlevel.checkpoint()
        spool.end()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            assert await drain(spool) == b"".join(sent)
