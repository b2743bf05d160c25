"""The worked example of docs/jobs.md, as it stands there, declared by a package and run."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from jobs.gate import Gate
from jobs.pool import pool
from jobs.types import Make
from store.backend import create, draft, put

from headwater.errors import InvalidJob, JobFailed
from headwater.jobs import registry
from headwater.jobs.registry import Registry

DOCS = Path(__file__).parents[2] / "docs" / "jobs.md"


@pytest.fixture
def example() -> Any:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    module = ModuleType("example")
    exec(compile(code, str(DOCS), "exec"), vars(module))
    return vars(module)["WordCount"]


@pytest.mark.anyio
async def test_the_example_counts_words(tmp_path: Path, example: Any) -> None:
    async with pool(tmp_path, example()) as opened:
        library = await opened.log.store.write(create("books"))
        texts = [f"sea and salt {n}" for n in range(1_200)]
        await opened.log.store.write(put(library, *(draft(t, t) for t in texts)))
        (id,) = await opened.submit("word_count", library_id=library.id, word="sea")
        job = await opened.until(id, "completed", "failed")
        assert job.result == {"words": 4_800, "named": 1_200}
        assert (job.progress.current, job.progress.total) == (1_200, 1_200)


@pytest.mark.anyio
async def test_the_example_names_what_is_wrong(example: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        await example().check({"word": 3}, None)
    assert caught.value.fields == {"path": "params.word"}


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


@pytest.mark.anyio
async def test_a_declared_type_is_found_and_a_broken_one_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declared = {
        "count": point("count", "jobs.types:Make.count"),
        "gone": point("gone", "no.such.module:Type"),
        "other": point("other", "jobs.types:Make.count"),
    }
    monkeypatch.setattr(registry, "declared", lambda: declared)
    assert hasattr(Make, "count")
    types = Registry()
    assert types.names == ["count", "gone", "other"]
    assert (await types.find("count")).type == "count"
    for broken in ("gone", "other"):
        with pytest.raises(JobFailed, match=broken):
            await types.find(broken)
    with pytest.raises(InvalidJob, match="no job type 'bake'"):
        await types.find("bake")


@pytest.mark.anyio
async def test_a_package_that_takes_long_to_import_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: Gate
) -> None:
    """The module waits for the gate, which is opened from the loop."""
    lines = [
        "from jobs.gate import pass_blocking",
        "from jobs.types import Typed, nothing",
        f"pass_blocking({str(gate)!r})",
        "def make():",
        "    return Typed('slow', nothing)",
    ]
    (tmp_path / "slow_to_import.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        registry, "declared", lambda: {"slow": point("slow", "slow_to_import:make")}
    )
    async with pool(tmp_path) as opened:
        (slow,) = await opened.submit("slow")
        await opened.until(slow, "running")
        await opened.ended(await opened.submit("nothing"))
        assert (await opened.job(slow)).status == "running"
        gate.open()
        await opened.until(slow, "completed")
        handlers = []

        async def find() -> None:
            handlers.append(await opened.runner.registry.find("slow"))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(find)
        assert len({id(handler) for handler in handlers}) == 1
