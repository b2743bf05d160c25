"""Jobs, schedules and workers."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from headwater.settings.section import (
    TICK,
    KiB,
    MiB,
    Seconds,
    Section,
    count,
    every,
    in_bytes,
    in_seconds,
)


class JobSettings(Section):
    """Jobs: who runs them, how often, and how long they are remembered."""

    size: int = count(
        4,
        "Jobs that a server process runs at once; `PUT /v1/workers` changes it while it runs.",
        least=0,
        most=64,
    )
    types: str = Field(
        "*",
        description="Types of jobs that a server process takes, separated by commas, `*` for all.",
    )
    heavy: int = count(1, "Of these, how many may be of a heavy type, such as rebuilds.", most=64)
    max_attempts: int = count(3, "How often a job is tried unless it says otherwise.", most=100)
    backoff: Seconds = in_seconds(
        1, "Longest wait before a failed job is tried again, doubled each time"
    )
    backoff_max: Seconds = in_seconds(timedelta(minutes=5), "Longest wait before any such try")
    lease: Seconds = Field(
        timedelta(seconds=30),
        ge=TICK,
        description="How long a process may be silent before others take over its jobs, "
        "in seconds. One that has ended is noticed at once.",
    )
    reap_every: Seconds = every(1, "How often jobs of processes that ended are looked for")
    poll: Seconds = every(
        1, "How often waiting jobs and due schedules are looked for when no bell has rung"
    )
    progress_every: Seconds = in_seconds(
        timedelta(milliseconds=250), "How often the progress of one job is told, at most"
    )
    stop: Seconds = in_seconds(
        3,
        "How long a job's thread may take to notice that it is to stop before it is left to itself",
    )
    max_queued: int = count(100_000, "Jobs that wait before more are refused.")
    batch: int = count(1_000, "Jobs submitted in one request.")
    params_bytes: int = in_bytes(4 * MiB, "Largest parameters of one job, as JSON")
    result_bytes: int = in_bytes(256 * KiB, "Largest result of a job, as JSON")
    keep: Seconds = in_seconds(
        timedelta(days=7), "How long completed and cancelled jobs are kept, with their folders"
    )
    keep_failed: Seconds = in_seconds(timedelta(days=30), "How long failed ones are kept")
    schedules: int = count(1_000, "Schedules there may be.")
    grace: Seconds = in_seconds(
        60, "How late a schedule may fire before the firing counts as missed"
    )
    catch_up: int = count(
        100,
        "Jobs that a schedule of policy `all` submits at once for firings that were missed, the "
        "latest ones.",
        most=10_000,
    )
