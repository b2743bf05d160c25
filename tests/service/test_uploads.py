"""Files that are sent with a job: whole on disk, or not there at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headwater.errors import BodyTooLarge, DiskFull
from headwater.service.uploads import Uploads

pytestmark = pytest.mark.anyio


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_body_is_kept_as_it_came(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "one"
    assert await Uploads(1 << 22).keep(body(b"ab", b"", b"c" * (2 << 20)), folder, "source") == (
        (2 << 20) + 2
    )
    assert (folder / "source").read_bytes() == b"ab" + b"c" * (2 << 20)


async def test_body_over_the_limit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BodyTooLarge):
        await Uploads(3).keep(body(b"ab", b"cd"), tmp_path / "one", "source")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("size", [1, 2 << 20])
async def test_full_disk_says_so_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    with pytest.raises(DiskFull) as caught:
        await Uploads(1 << 22).keep(body(b"x" * size), tmp_path / "one", "/dev/full")
    assert caught.value.retryable
    assert os.listdir(tmp_path) == []
