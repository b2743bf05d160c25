"""Files that are sent with a job: whole on disk, or not there at all."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headwater.errors import BodyTooLarge, DiskFull, JobFailed
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


async def test_body_that_fits_in_part_is_not_taken_for_whole(tmp_path: Path) -> None:
    """The system writes what has room, says so by the count, and raises at the next write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, before[1]))
    try:
        with pytest.raises(JobFailed):
            await Uploads(1 << 23).keep(
                body(b"x" * (2 << 20), b"y" * ((2 << 20) - 1)), tmp_path / "one", "source"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []
