"""The contract of alerts on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.alert_contract import AlertContract
from store.backend import Backend
from store.test_sqlite import SqliteBackend


class TestAlerts(AlertContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)
