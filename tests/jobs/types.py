"""Types of jobs for tests: what they do is told by their parameters.

Also declared to child processes as a package's (see `package.py`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from jobs.gate import pass_blocking, passed

from headwater.errors import InvalidJob, JobFailed
from headwater.jobs import JobContext, Params, Result
from headwater.model import Library


class Typed:
    """A type whose handler is a function."""

    needs_library = False

    def __init__(
        self, type: str, run: Callable[[JobContext], Awaitable[Result]], *, heavy: bool = False
    ) -> None:
        self.type = type
        self.heavy = heavy
        self._run = run

    async def check(self, params: Params, library: Library | None) -> Params:
        if params.get("wrong"):
            raise InvalidJob("this one is wrong", path="params.wrong")
        return params

    async def run(self, context: JobContext) -> Result:
        return await self._run(context)


async def nothing(context: JobContext) -> Result:
    """Leaves a mark in the file `marks`, when one is named: a line for each time it was run."""
    marks = context.params.get("marks")
    if marks is not None:
        descriptor = os.open(marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{context.job.id}\n".encode())
        os.close(descriptor)
    return {}


async def count(context: JobContext) -> Result:
    """Counts `to` a number, saving each step in which it writes a line to a file of its own.

    Stops at `until` for as long as the gate named `gate` is not open.
    """
    at: int = context.saved.get("at", 0)
    to: int = context.params["to"]
    for step in range(at, to):
        if step >= context.params.get("until", to):
            await passed(context.params["gate"])
        (context.folder / f"{step}.done").write_text(str(context.job.lease))
        await context.save({"at": step + 1}, current=step + 1, total=to, message="counting")
    return {"counted": to}


async def wait(context: JobContext) -> Result:
    context.progress(0, 1, "waiting")
    await anyio.sleep_forever()
    return {}


async def block(context: JobContext) -> Result:
    """Works in a thread until it is told to stop."""
    return await context.in_thread(_block, context)


def _block(context: JobContext) -> Result:
    context.progress(0, 1, "working")
    while True:
        context.check()
        time.sleep(0.01)  # a piece of its work


async def stubborn(context: JobContext) -> Result:
    """Works in a thread that does not listen, until the gate named `gate` is open."""

    def work() -> Result:
        context.progress(0, 1, "working")
        pass_blocking(context.params["gate"])
        return {}

    return await context.in_thread(work)


async def fail(context: JobContext) -> Result:
    """Fails until attempt `until`, by an error of its own, or a bug."""
    if context.job.attempt >= context.params.get("until", 1_000):
        return {"attempt": context.job.attempt}
    if context.params.get("bug"):
        raise ZeroDivisionError("a bug")
    raise JobFailed("it did not work", retryable=context.params.get("retryable", True), shelf=3)


async def poison(context: JobContext) -> Result:
    """Takes the process with it."""
    os.kill(os.getpid(), signal.SIGKILL)
    await anyio.sleep_forever()
    return {}


async def chatter(context: JobContext) -> Result:
    """Says how far it is much too often."""

    def talk() -> None:
        for step in range(20_000):
            context.progress(step + 1, 20_000)

    await context.in_thread(talk)
    return {}


RUNS: dict[str, Callable[[JobContext], Awaitable[Result]]] = {
    "nothing": nothing,
    "count": count,
    "wait": wait,
    "block": block,
    "stubborn": stubborn,
    "fail": fail,
    "poison": poison,
    "chatter": chatter,
}


class Make:
    """What entry points name: `Make.count` gives the type `count`."""


for _name, _run in RUNS.items():
    setattr(Make, _name, staticmethod(partial(Typed, _name, _run)))


def declare(folder: Path) -> str:
    """Declare the types as a package in `folder` would; the `PYTHONPATH` with which they are found.

    Any process that is started with it has them.
    """
    info = folder / "headwater_test_jobs-1.dist-info"
    info.mkdir(parents=True)
    about = "Metadata-Version: 2.1\nName: headwater-test-jobs\nVersion: 1\n"
    (info / "METADATA").write_text(about)
    points = "\n".join(f"{name} = jobs.types:Make.{name}" for name in RUNS)
    (info / "entry_points.txt").write_text(f"[headwater.jobs]\n{points}\n")
    return os.pathsep.join([str(folder), str(Path(__file__).parents[1])])


def handlers(*more: Any) -> list[Any]:
    return [*(Typed(name, run) for name, run in RUNS.items()), *more]
