"""The store contract as tests: a backend's test module subclasses `StoreContract`.

Nothing here knows which database is behind it.
"""

from __future__ import annotations

import pytest
from store.backend import Backend
from store.contract_documents import DocumentContract
from store.contract_libraries import LibraryContract
from store.contract_log import LogContract
from store.contract_pending import PendingContract


@pytest.mark.anyio
class StoreContract(LibraryContract, DocumentContract, PendingContract, LogContract):
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError
