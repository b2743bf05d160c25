"""The store: documents and the log of their changes, in one transaction."""

from headwater.store.base import LogPage, Reader, Snapshot, Store
from headwater.store.folder import DataFolder
from headwater.store.sqlite import SqliteStore

__all__ = ["DataFolder", "LogPage", "Reader", "Snapshot", "SqliteStore", "Store"]
