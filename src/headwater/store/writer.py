"""Group commit: every command that waits goes into one transaction.

`Writer` is the work of the store's writing lane and runs in its thread alone. It publishes by
posting `Committed` to the loop after the commit and before the lane resolves the submitters; it
must never publish what is not durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from headwater import failpoints
from headwater.clock import Clock
from headwater.errors import HeadwaterError, StoreFailed
from headwater.model import Committed, Position
from headwater.store import (
    alert_commands,
    alert_writes,
    base,
    batch_commands,
    job_commands,
    job_leases,
    job_writes,
    library_commands,
    regeneration_commands,
    regenerations,
    schedule_writes,
    session_commands,
    session_marks,
    session_people,
    session_writes,
    worker_writes,
)
from headwater.store.connection import failed
from headwater.store.edits import delete_document, delete_documents, patch_document
from headwater.store.embeds import defer_embedding, embed_documents, redrive_embedding
from headwater.store.puts import put_documents
from headwater.store.shelves import (
    create_library,
    delete_library,
    sweep_libraries,
    update_library,
)
from headwater.store.transaction import Transaction
from headwater.store.turns import Turns
from headwater.store.upkeep import (
    RenewIdentity,
    announce,
    begin_batch,
    end_batch,
    fail_open_batches,
    renew_identity,
    trim_log,
)

log = structlog.get_logger(__name__)

# Beyond this a transaction holds memory and its submitters longer than a sync costs.
_MAX_DRAFTS = 4096

_HANDLERS: dict[type[Any], Callable[[Transaction, Any], Any]] = {
    library_commands.CreateLibrary: create_library,
    library_commands.UpdateLibrary: update_library,
    library_commands.DeleteLibrary: delete_library,
    library_commands.SweepLibraries: sweep_libraries,
    base.PutDocuments: put_documents,
    base.EmbedDocuments: embed_documents,
    base.DeferEmbedding: defer_embedding,
    base.RedriveEmbedding: redrive_embedding,
    base.PatchDocument: patch_document,
    base.DeleteDocument: delete_document,
    base.DeleteDocuments: delete_documents,
    batch_commands.BeginBatch: begin_batch,
    batch_commands.EndBatch: end_batch,
    batch_commands.FailOpenBatches: fail_open_batches,
    base.Announce: announce,
    base.TrimLog: trim_log,
    alert_commands.CreateAlert: alert_writes.create_alert,
    alert_commands.UpdateAlert: alert_writes.update_alert,
    alert_commands.DeleteAlert: alert_writes.delete_alert,
    alert_commands.TellMatches: alert_writes.tell_matches,
    session_commands.JoinSession: session_people.join_session,
    session_commands.LeaveSession: session_people.leave_session,
    session_commands.RenewLease: session_people.renew_lease,
    session_commands.RemoveLostPeople: session_people.remove_lost_people,
    session_commands.ReviseQuery: session_writes.revise_query,
    session_commands.PlaceMark: session_marks.place_mark,
    session_commands.ReviseMark: session_marks.revise_mark,
    session_commands.RemoveMark: session_marks.remove_mark,
    session_commands.DeleteSession: session_writes.delete_session,
    session_commands.ForgetSessions: session_writes.forget_sessions,
    job_commands.EnqueueJobs: job_writes.enqueue_jobs,
    job_commands.CancelJob: job_writes.cancel_job,
    job_commands.RetryJob: job_writes.retry_job,
    job_commands.ReplayDead: job_writes.replay_dead,
    job_commands.ForgetJobs: job_writes.forget_jobs,
    job_commands.ClaimJobs: job_leases.claim_jobs,
    job_commands.RenewLeases: job_leases.renew_leases,
    job_commands.HoldLease: job_leases.hold_lease,
    job_commands.SaveJob: job_leases.save_job,
    job_commands.CompleteJob: job_leases.complete_job,
    job_commands.FailJob: job_leases.fail_job,
    job_commands.StopJob: job_leases.stop_job,
    job_commands.ReapJobs: job_leases.reap_jobs,
    job_commands.CreateSchedule: schedule_writes.create_schedule,
    job_commands.ChangeSchedule: schedule_writes.change_schedule,
    job_commands.DeleteSchedule: schedule_writes.delete_schedule,
    job_commands.FireSchedule: schedule_writes.fire_schedule,
    job_commands.RegisterWorker: worker_writes.register_worker,
    job_commands.ChangeWorkers: worker_writes.change_workers,
    job_commands.RemoveWorker: worker_writes.remove_worker,
    regeneration_commands.BeginRegeneration: regenerations.begin_regeneration,
    regeneration_commands.PutNextVectors: regenerations.put_next_vectors,
    regeneration_commands.SwitchGeneration: regenerations.switch_generation,
    regeneration_commands.SettleVectors: regenerations.settle_vectors,
    RenewIdentity: renew_identity,
}


def _together(tx: Transaction, command: base.Together) -> list[Any]:
    results = [_HANDLERS[type(one)](tx, one) for one in command.commands]
    if command.then is not None:
        last = command.then(results)
        results.append(_HANDLERS[type(last)](tx, last))
    return results


_HANDLERS[base.Together] = _together


class Writer:
    """Called with commands, answers with their results.

    `head` is the newest position this process knows to be committed. `on_commit` and `on_foreign`
    are called in the writing thread, in commit order.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        clock: Clock,
        head: Position,
        turns: Turns,
        *,
        on_commit: Callable[[Committed], None],
        on_foreign: Callable[[Position], None],
    ) -> None:
        self.head = head
        self._turns = turns
        self.committing: Position = 0
        self._db = db
        self._clock = clock
        self._on_commit = on_commit
        self._on_foreign = on_foreign

    def __call__(self, commands: Sequence[Any]) -> list[Any]:
        results: list[Any] = []
        for group in _groups(commands):
            with self._turns:
                try:
                    results += self._transact(group)
                except sqlite3.Error as error:
                    failure = failed(error)
                    failure.__cause__ = error
                    results += [failure] * len(group)
                finally:
                    self._clean()
        return results

    def _transact(self, commands: Sequence[Any]) -> list[Any]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        tx = Transaction(db, self._clock)
        alone = len(commands) == 1
        results = [self._attempt(tx, command, alone=alone) for command in commands]
        if alone and isinstance(results[0], BaseException):
            return results  # and `_clean` rolls back
        tx.flush()
        failpoints.reach("store.before_commit")
        self.committing = tx.position
        db.execute("COMMIT")
        if tx.after > self.head:
            self._on_foreign(tx.after)
        self.head = tx.position
        failpoints.reach("store.after_commit")
        committed = tx.committed()
        if committed is not None:
            self._on_commit(committed)
        for command, result in zip(commands, results, strict=True):
            if isinstance(command, library_commands.SweepLibraries) and result is True:
                failpoints.reach("library.mid_sweep")
        return results

    def _attempt(self, tx: Transaction, command: Any, *, alone: bool) -> Any:
        """The command's result, or its error, after which it has changed nothing.

        A command alone in its transaction needs no savepoint: the caller rolls all of it back.
        """
        db = self._db
        mark = tx.mark()
        if not alone:
            db.execute("SAVEPOINT command")
        try:
            result = _HANDLERS[type(command)](tx, command)
        except Exception as error:  # the command's root: its neighbours must not suffer
            if not db.in_transaction:
                raise  # SQLite has given up the whole transaction (disk full, I/O error)
            if not alone:
                db.execute("ROLLBACK TO command")
                db.execute("RELEASE command")
                tx.go_back(mark)
            if isinstance(error, sqlite3.Error):
                failure = failed(error)
                failure.__cause__ = error
                return failure
            if not isinstance(error, HeadwaterError):
                log.exception("store.command_failed", command=type(command).__name__)
                failure = StoreFailed(
                    f"the command could not be carried out ({error!r})", retryable=False
                )
                failure.__cause__ = error
                return failure
            return error
        if not alone:
            db.execute("RELEASE command")
        return result

    def _clean(self) -> None:
        """Leave no transaction open, whatever happened."""
        self.committing = 0
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _weight(command: Any) -> int:
    if isinstance(command, base.PutDocuments):
        return len(command.drafts)
    if isinstance(command, base.DeleteDocuments):
        return len(command.ids)
    if isinstance(command, job_commands.EnqueueJobs):
        return len(command.jobs)
    if isinstance(command, base.Together):
        return sum(map(_weight, command.commands))
    return len(command.items) if isinstance(command, base.EmbedDocuments) else 1


def _groups(commands: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`commands` in order, cut so that no group puts too many documents."""
    start = drafts = 0
    for index, command in enumerate(commands):
        weight = _weight(command)
        if index > start and drafts + weight > _MAX_DRAFTS:
            yield commands[start:index]
            start, drafts = index, 0
        drafts += weight
    yield commands[start:]
