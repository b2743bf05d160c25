"""The contract on SQLite, and what only a file shared by processes can get wrong."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from store.backend import Backend, HandClock, create, draft, put
from store.contract import StoreContract
from store.reading import is_sound, whole_log

import headwater
from headwater.clock import SystemClock
from headwater.errors import LibraryExists, Refused, StoreFailed
from headwater.model import Committed, Position
from headwater.settings import StoreSettings
from headwater.store import SqliteStore, Store
from headwater.store.base import OnCommit, OnForeign, PutDocuments
from headwater.store.connection import connect
from headwater.store.library_commands import SweepLibraries
from headwater.store.migrate import REVISIONS, prepare
from headwater.store.reader import SqliteReader
from headwater.store.turns import Turns
from headwater.store.writer import Writer

CHILD = Path(__file__).with_name("child.py")


class SqliteBackend(Backend):
    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings = StoreSettings.model_validate({"durability": "normal", **settings})

    def store(self, clock: HandClock, on_commit: OnCommit, on_foreign: OnForeign) -> Store:
        return SqliteStore(
            self.folder, self.settings, clock, on_commit=on_commit, on_foreign=on_foreign
        )


class TestContract(StoreContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return SqliteBackend(tmp_path)


@pytest.mark.anyio
async def test_another_process_is_heard_by_the_poll(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path)
    async with backend.open() as here, backend.open() as there:
        library = await there.library()
        with anyio.fail_after(10):
            await here.told.wait()
        assert here.foreign[-1] == library.position
        assert here.commits == []
        assert there.foreign == []
        found = await here.store.read(lambda reader: reader.library("books"))
        assert found == library


@pytest.mark.anyio
async def test_a_foreign_commit_leaves_a_gap_and_is_told_first(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path, poll_ms=10_000)
    async with backend.open() as here, backend.open() as there:
        library = await here.library("mine")
        await there.library("theirs")
        await here.store.write(put(library, draft("x", "a")))
        assert here.heard == ["commit 1", "foreign 2", "commit 3"]
        assert [(c.after, c.through) for c in here.commits] == [(0, 1), (2, 3)]


@pytest.mark.anyio
async def test_own_commits_are_not_taken_for_foreign_ones(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path, poll_ms=1)
    async with backend.open() as opened:
        library = await opened.library()
        for i in range(200):
            await opened.store.write(put(library, draft(f"d{i}", "t")))
        assert opened.foreign == []


class Direct:
    """A writer without a lane: what shares a call shares a transaction."""

    def __init__(self, folder: Path, clock: HandClock) -> None:
        path = folder / "headwater.db"
        prepare(path, StoreSettings(), clock)
        self.commits: list[Committed] = []
        self.foreign: list[Position] = []
        self.db = connect(path, StoreSettings(durability="normal"), writer=True)
        self.write = Writer(
            self.db,
            clock,
            0,
            Turns(folder, timedelta(seconds=30)),
            on_commit=self.commits.append,
            on_foreign=self.foreign.append,
        )
        self.reader = SqliteReader(self.db)


@pytest.fixture
def direct(tmp_path: Path) -> Direct:
    return Direct(tmp_path, HandClock())


def test_a_failing_command_is_rolled_back_within_its_group(direct: Direct) -> None:
    no_draft: Any = None
    bad = PutDocuments(1, (draft("ok", "a"), no_draft), np.zeros((1, 4), np.float32))
    results = direct.write(
        [create("a"), put(1, draft("x", "t")), create("a"), bad, put(1, draft("y", "u"))]
    )
    assert [type(result) for result in results[2:4]] == [LibraryExists, StoreFailed]
    (committed,) = direct.commits
    assert [change.subject for change in committed.changes[1:]] == ["x", "y"]
    assert [change.position for change in committed.changes] == [1, 2, 3]
    assert direct.reader.document(1, "ok") is None
    assert direct.reader.check() == []


def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(direct: Direct) -> None:
    direct.write([create("a")])
    (pages,) = direct.db.execute("PRAGMA page_count").fetchone()
    direct.db.execute(f"PRAGMA max_page_count = {pages + 8}")
    many = put(1, *(draft(f"d{i}", "text " * 50) for i in range(500)))
    first, full, last = direct.write([put(1, draft("x", "t")), many, put(1, draft("y", "t"))])
    assert isinstance(full, StoreFailed)
    assert "SQLITE_FULL" in full.detail
    assert [written.position for (written,) in (first, last)] == [2, 3]
    assert direct.reader.document(1, "d0") is None
    direct.db.execute(f"PRAGMA max_page_count = {1 << 30}")
    (written,) = direct.write([many])
    assert all(result.status == "created" for result in written)
    assert [(c.after, c.through) for c in direct.commits] == [(0, 1), (1, 3), (3, 503)]
    assert direct.reader.check() == []


def test_a_commit_that_fails_is_not_published(direct: Direct) -> None:
    direct.write([create("a")])
    direct.db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    direct.db.execute(
        "CREATE TABLE child (id REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    direct.db.execute(
        "CREATE TRIGGER breaks AFTER INSERT ON documents WHEN new.id = 'breaks' "
        "BEGIN INSERT INTO child VALUES (1); END"
    )
    direct.db.execute("PRAGMA foreign_keys = ON")
    results = direct.write([put(1, draft("x", "t")), put(1, draft("breaks", "t"))])
    assert [type(result) for result in results] == [StoreFailed, StoreFailed]
    assert len(direct.commits) == 1
    (written,) = direct.write([put(1, draft("x", "t"))])[0]
    assert (written.status, written.position) == ("created", 2)
    assert direct.reader.check() == []


def test_a_locked_database_fails_with_a_reason(tmp_path: Path, direct: Direct) -> None:
    direct.db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "headwater.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    (result,) = direct.write([create("a")])
    assert isinstance(result, StoreFailed)
    assert "SQLITE_BUSY" in result.detail
    other.close()
    assert direct.write([create("a")])[0].name == "a"


def test_large_groups_are_cut_into_several_transactions(direct: Direct) -> None:
    direct.write([create("a")])
    groups = [put(1, *(draft(f"{g}-{i}") for i in range(3000))) for g in range(3)]
    assert [len(result) for result in direct.write(groups)] == [3000] * 3
    assert len(direct.commits) == 4


def run_child(folder: Path, mode: str, failpoints: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(CHILD), str(folder), mode],
        env={
            **os.environ,
            "HEADWATER_FAILPOINTS": failpoints,
            "PYTHONPATH": os.pathsep.join(
                [str(Path(headwater.__file__).parents[1]), str(CHILD.parents[1])]
            ),
        },
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
        text=True,
    )
    assert done.returncode == -9
    lines = [line.split() for line in done.stdout.splitlines()]
    return [line[1] for line in lines if line[0] == "acknowledged"]


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["store.before_commit", "store.after_commit"])
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, name: str) -> None:
    acknowledged = run_child(tmp_path, "put", f"{name}:9")
    assert len(acknowledged) == 7
    async with SqliteBackend(tmp_path).open() as opened:
        library = await opened.store.read(lambda reader: reader.library("books"))
        assert library is not None
        there = [change.subject or "" for change in await whole_log(opened)][1:]
        durable = [f"d{i}" for i in range(8 if name == "store.after_commit" else 7)]
        assert there == durable
        documents = await opened.store.read(
            lambda reader: reader.documents_by_id(library.number, there)
        )
        assert sorted(documents) == durable
        await is_sound(opened)


@pytest.mark.anyio
async def test_a_sweep_cut_short_goes_on(tmp_path: Path) -> None:
    run_child(tmp_path, "sweep", "library.mid_sweep:2")
    async with SqliteBackend(tmp_path).open() as opened:
        assert await opened.store.read(lambda reader: reader.check()) == []
        rows = sqlite3.connect(tmp_path / "headwater.db")
        (left,) = rows.execute("SELECT count(*) FROM chunks").fetchone()
        assert left == 30
        while await opened.store.write(SweepLibraries(limit=10)):
            pass
        assert rows.execute("SELECT count(*) FROM chunks").fetchone() == (0,)
        assert rows.execute("SELECT count(*) FROM libraries").fetchone() == (0,)
        rows.close()


def refused(folder: Path) -> str:
    with pytest.raises(Refused) as caught:
        prepare(folder / "headwater.db", StoreSettings(busy_timeout_ms=100), SystemClock())
    return caught.value.detail


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path / "headwater.db", StoreSettings(), SystemClock())
    db = sqlite3.connect(tmp_path / "headwater.db", isolation_level=None)
    db.execute("UPDATE alembic_version SET version_num = '0999'")
    db.close()
    assert "Upgrade Headwater" in refused(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "headwater.db").write_bytes(b"Dear diary, " * 1000)
    assert "not a database" in refused(tmp_path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "headwater.db", isolation_level=None)
    db.execute("CREATE TABLE cookies (id)")
    db.close()
    assert "another program's" in refused(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "check that the folder is writable" in refused(tmp_path / "file")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes into any folder"
)
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "check that the folder is writable" in refused(tmp_path)


def test_processes_that_open_at_once_agree(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from headwater.store.migrate import prepare; "
        "from headwater.settings import StoreSettings; from headwater.clock import SystemClock; "
        "print(prepare(pathlib.Path(sys.argv[1]), StoreSettings(), SystemClock()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(headwater.__file__).parents[1])}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "headwater.db")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = {child.communicate(timeout=60)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(told) == 1


def test_the_migrations_make_the_schema(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    import headwater.store.migrate as migrate
    from headwater.store.schema import metadata

    prepare(tmp_path / "headwater.db", StoreSettings(), SystemClock())
    engine = create_engine(f"sqlite:///{tmp_path / 'headwater.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    scripts = ScriptDirectory(str(Path(migrate.__file__).with_name("migrations")))
    known = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(known)) == REVISIONS


def test_opening_a_current_database_does_not_import_alembic(tmp_path: Path) -> None:
    prepare(tmp_path / "headwater.db", StoreSettings(), SystemClock())
    script = (
        "import sys, pathlib; from headwater.store.migrate import prepare; "
        "from headwater.settings import StoreSettings; from headwater.clock import SystemClock; "
        "prepare(pathlib.Path(sys.argv[1]), StoreSettings(), SystemClock()); "
        "sys.exit('alembic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(headwater.__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "headwater.db")], env=environment, check=True
    )
