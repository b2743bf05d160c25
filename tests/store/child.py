"""A process that writes until a failpoint kills it, printing what was acknowledged."""

import sys
from pathlib import Path

import anyio
from store.backend import create, draft, put

from headwater.clock import SystemClock
from headwater.settings import StoreSettings
from headwater.store import SqliteStore
from headwater.store.library_commands import DeleteLibrary, SweepLibraries


async def main(folder: Path, mode: str) -> None:
    store = SqliteStore(
        folder,
        StoreSettings(),
        SystemClock(),
        on_commit=lambda committed: None,
        on_foreign=lambda head: None,
    )
    async with anyio.create_task_group() as group:
        await group.start(store.run)
        library = await store.write(create("books"))
        if mode == "sweep":
            await store.write(put(library, *(draft(f"d{i}", "t") for i in range(50))))
            await store.write(DeleteLibrary(library.number))
            while await store.write(SweepLibraries(limit=10)):
                pass
        else:
            for i in range(100):
                await store.write(put(library, draft(f"d{i}", "t")))
                print(f"acknowledged d{i}", flush=True)
        group.cancel_scope.cancel()


anyio.run(main, Path(sys.argv[1]), sys.argv[2])
