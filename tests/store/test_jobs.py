"""The contract of jobs, schedules and workers on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.backend import Backend
from store.job_contract import JobContract
from store.job_lease_contract import JobLeaseContract
from store.schedule_contract import ScheduleContract
from store.test_sqlite import SqliteBackend


class TestJobs(JobContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)


class TestJobLeases(JobLeaseContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)


class TestSchedules(ScheduleContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)
