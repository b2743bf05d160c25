"""The contract of sessions on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.backend import Backend
from store.session_contract import SessionContract
from store.test_sqlite import SqliteBackend


class TestSessions(SessionContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)
