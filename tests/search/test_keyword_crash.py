"""A process that dies around a commit of a keyword index, and the next one on its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest
from search.keyword_house import keyword_house

from headwater.doctor import Finding, examine
from headwater.settings import Settings

pytestmark = pytest.mark.anyio

CHILD = """
import sys
from pathlib import Path
import anyio
from search.keyword_house import keyword_house

async def main(folder: Path) -> None:
    async with keyword_house(folder) as house:
        library = await house.library()
        house.views.open(library)
        for number in range(100):
            position = await house.put(library, f"d{number % 7}", f"apple {number}")
            await house.views.caught_up(library.id, position)
            await house.views.search(library, "apple", 1)
            print(number, flush=True)

anyio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("place", ["keyword.before_commit", "keyword.after_commit"])
async def test_killed_around_a_commit_the_index_agrees_with_the_store(
    tmp_path: Path, place: str
) -> None:
    tests = Path(__file__).parent.parent
    source = tests.parent / "src"
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env=os.environ | {"HEADWATER_FAILPOINTS": f"{place}:9", "PYTHONPATH": f"{tests}:{source}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    seen = done.stdout.decode().split()[-1]
    assert all(finding.ok for finding in await _examined(tmp_path))
    async with keyword_house(tmp_path) as house:
        library = await house.again()
        await house.is_complete(library)
        assert int(seen) >= 6
        found = await house.found(library, "apple")
        assert f"apple {seen}" in found
        assert len(found) == len(set(found)) == 7
        (status,) = house.views.status()
        assert status.reason is None, "it was replayed, not made anew"


async def _examined(folder: Path) -> list[Finding]:
    return await anyio.to_thread.run_sync(examine, Settings(data=folder))


async def test_the_doctor_compares_the_index_with_the_store(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put(library, "a", "apple", "pear")
        await house.is_complete(library)
        told = {f.name: f for f in await _examined(tmp_path)}
        assert told["books: keyword"].detail.startswith("2 chunks in the store, 2 in the index")
    told = {f.name: f for f in await _examined(tmp_path)}
    assert told["books: keyword"].detail == "2 chunks in the store, 2 in the index"
