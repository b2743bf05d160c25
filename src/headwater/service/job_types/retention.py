"""`retention`: the oldest changes of the log, away at once rather than when their time comes.

The log is trimmed by itself, to what the settings say; a job trims it further, or by a schedule.
"""

from __future__ import annotations

import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import InvalidJob
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Library, Position
from headwater.service.job_types.params import kept, read
from headwater.settings import LogSettings
from headwater.store.base import Reader, TrimLog

_TRIM_CHANGES = 2_000


class RetentionParams(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Changes older than `age_seconds`, and all but the newest `keep_changes`; by default as the
    settings have it."""

    age_seconds: float | None = None
    keep_changes: int | None = None


class Retention:
    """Loop only."""

    type = "retention"
    heavy = False
    needs_library = False

    def __init__(self, log: Log, clock: Clock, settings: LogSettings) -> None:
        self._log = log
        self._clock = clock
        self._settings = settings

    async def check(self, params: Params, library: Library | None) -> Params:
        given = read(params, RetentionParams)
        if library is not None:
            raise InvalidJob("the log is of all libraries; leave `library` out", path="library")
        if given.age_seconds is not None and not 0 <= given.age_seconds <= 1e10:
            raise InvalidJob("`age_seconds` is 0 or more", path="params.age_seconds")
        if given.keep_changes is not None and given.keep_changes < 1:
            raise InvalidJob("`keep_changes` is 1 or more", path="params.keep_changes")
        return kept(given)

    async def run(self, context: JobContext) -> Result:
        params = read(context.params, RetentionParams)
        settings = self._settings
        age_s = params.age_seconds
        if age_s is None:
            age_s = settings.retention_age.total_seconds()
        keep = settings.retention_changes if params.keep_changes is None else params.keep_changes
        state = context.saved
        if not state:
            first = await context.read(_trimmed)
            state = {
                "before_us": self._clock.now_us() - round(age_s * 1_000_000),
                "keep": keep,
                "first": first,
            }
            await context.save(state)
        before_us, kept_changes, first = state["before_us"], state["keep"], state["first"]
        reached: Position = -1
        while True:
            command = TrimLog(before_us, kept_changes, _TRIM_CHANGES)
            trimmed: Position = await context.write(command)
            context.progress(trimmed - first, None, "trimming")
            if trimmed == reached:
                break
            reached = trimmed
        return {"trimmed": trimmed - first, "earliest": str(self._log.cursor(trimmed))}


def _trimmed(reader: Reader) -> Position:
    return reader.trimmed()
