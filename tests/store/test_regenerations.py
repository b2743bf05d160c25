"""The contract of generations of vectors on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.backend import Backend
from store.regeneration_contract import RegenerationContract
from store.test_sqlite import SqliteBackend


class TestRegenerations(RegenerationContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)
