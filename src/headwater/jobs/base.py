"""What a type of job is, and what its handler is given while one runs.

Implemented by the types in `service/job_types/` and by other packages (`registry.py`); run by
`runner.py` alone. A handler must be able to begin again from what it saved last: a process may die
anywhere, and whatever it did since then is done again by the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from headwater.model import Job, Library
from headwater.store.base import Command, Reader

T = TypeVar("T")

Params = dict[str, Any]
Result = dict[str, Any]
State = dict[str, Any]


class JobCancelled(Exception):
    """The job is to stop: somebody cancelled it, its worker stops, or its lease was lost.

    Raised by `JobContext.check` in a thread. On the loop the handler's task is cancelled instead.
    """

    def __init__(self) -> None:
        super().__init__("the job was told to stop")


class JobContext(ABC):
    """A running job as its handler sees it. Loop only, except where a method says otherwise.

    `job` is as it was claimed. `folder` is the job's own place on disk, made before the handler
    runs, shared by all its attempts and removed with the job. `saved` is what the last attempt
    saved, empty at first.
    """

    job: Job
    saved: State

    @property
    @abstractmethod
    def folder(self) -> Path: ...

    @property
    def params(self) -> Params:
        """What the job was submitted with, as the handler's `check` gave it."""
        return self.job.params

    @abstractmethod
    async def save(
        self,
        state: State,
        *,
        current: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> None:
        """Keep `state`, from which another attempt goes on, and how far it is; durable on return.

        Raises `LeaseLost` when the job is somebody else's by now.
        """

    @abstractmethod
    async def write(
        self, command: Command, *, state: State | Callable[[Any], State] | None = None
    ) -> Any:
        """The command's result, its effect in one transaction with the saved `state`.

        `state` may be a function of the command's result; it is called in the writing thread, and
        must be quick. Progress goes with it, as it was last said. Refused with `LeaseLost` when
        the job is somebody else's by now; raises as the command.
        """

    @abstractmethod
    async def read(self, query: Callable[[Reader], T]) -> T:
        """Run `query` in a reading thread of the store."""

    @abstractmethod
    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` in a thread of the lowest priority.

        A cancelled job waits until it returns: it must call `check` between pieces of its work.
        """

    @abstractmethod
    def progress(
        self,
        current: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> None:
        """Say how far the job is. From any thread and as often as you like: it is told thinned.

        In whole numbers; what is None stays as it was.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise `JobCancelled` when the job is to stop. From any thread; costs nothing."""


@runtime_checkable
class JobHandler(Protocol):
    """A type of job. One object serves all its jobs, several at once.

    A `heavy` one uses a core for long: a process runs few of them at a time
    (`HEADWATER_JOBS__HEAVY`). With `needs_library` a job must name one.
    """

    type: str
    heavy: bool
    needs_library: bool

    async def check(self, params: Params, library: Library | None) -> Params:
        """The parameters as they are kept, checked and completed. Called at submission.

        Raises `InvalidJob` naming the `path` of what is wrong, such as `params.ids[3]`.
        """
        ...

    async def run(self, context: JobContext) -> Result:
        """Do the job and give its result, a small JSON object.

        A `HeadwaterError` that is `retryable`, or any other exception, is tried again later while
        there are attempts left; one that is not ends the job at once. Cancellation must leave no
        half-done rest but in `context.folder`, and end within a second.
        """
        ...
