"""The store contract, continued: batches, which are many documents that come in together.

A batch is told in the log as it begins and as it ends. It is open in between, and fails when
whoever takes it in is gone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias


def job_owner(job_id: str) -> str:
    """The owner of a job's batches."""
    return f"job:{job_id}"


@dataclass(frozen=True, slots=True)
class BeginBatch:
    """→ `Position`. Change `batch.started`; the batch counts as open until `EndBatch`.

    `owner` names the process that takes the batch in, for `FailOpenBatches`; or the job, as
    `job_owner` has it: its batches fail when it ends before them. With `once`, a batch that its
    owner has open gives the head, and no change.
    """

    number: int
    batch_id: str
    owner: str
    once: bool = False


@dataclass(frozen=True, slots=True)
class EndBatch:
    """→ `Position`. Change `batch.completed`, or `batch.failed` when `error` is given.

    `counts` go into the change's data. A batch that is not open gives the head, and no change.
    """

    batch_id: str
    counts: dict[str, int]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FailOpenBatches:
    """→ `int`: how many batches these owners left open. Change `batch.failed` for each."""

    error: str
    owners: Collection[str]


BatchCommand: TypeAlias = BeginBatch | EndBatch | FailOpenBatches


class BatchReader(ABC):
    @abstractmethod
    def batch_processes(self) -> set[str]:
        """The processes that have batches open; those of jobs end with their job."""
