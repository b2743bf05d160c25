"""`headwater export`: a library as NDJSON.

By default the lines are documents as `import` takes them; `--raw` keeps the wire's lines. Lines
are held until the checkpoint that covers them, so that a cut connection leaves nothing twice.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import msgspec
import typer

from headwater.cli import output
from headwater.cli.backoff import Backoff
from headwater.cli.client import (
    DEFAULT_URL,
    BadInput,
    Client,
    ClientError,
    Cut,
    Problem,
    Url,
    messages,
    segment,
    stream_problem,
)

RETRIES = 8
"""Attempts without any new document before an export gives up."""


def export(
    library: Annotated[str, typer.Argument(help="A name or id.")],
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file (.gz packs it) instead of stdout.")
    ] = None,
    include: Annotated[
        str, typer.Option(help="`chunks` or `chunks,vectors`: documents as their chunks.")
    ] = "",
    raw: Annotated[bool, typer.Option("--raw", help="The server's own lines, unchanged.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with every change after that.")
    ] = False,
    filter: Annotated[
        str | None, typer.Option("--filter", help='Only these: `{"year":{"$gte":2020}}`.')
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write a library out as NDJSON, one document a line, importable again.

    A cut connection is taken up again from the last checkpoint. With --follow a document that
    changes is written again; deletes are only seen with --raw.
    """
    wanted = [part.strip() for part in include.split(",") if part.strip()]
    if unknown := set(wanted) - {"chunks", "vectors"}:
        raise BadInput(f"--include takes chunks and vectors, not {', '.join(sorted(unknown))}")
    if follow and target is not None and target.suffix == ".gz":
        raise BadInput("--follow cannot write a .gz file: it would never be finished")
    with Client(url) as client:
        found = client.request("GET", f"/v1/libraries/{segment(library)}")
        if found.get("embedder") == "none" and not raw:
            wanted = ["chunks", "vectors"]  # without its vectors it could not be imported again
        with _opened(target, atomic=not follow) as file, output.progress() as bar:
            task = bar.add_task(output.clean(library), total=found.get("documents"), documents=0)
            exporter = Exporter(
                client, library, file, include=wanted, raw=raw, follow=follow, filter=filter
            )
            exporter.on_progress = lambda count: bar.update(task, completed=count, documents=count)
            exporter.run()
    if exporter.deleted:
        output.note(
            f"{output.counted(exporter.deleted, 'delete')} met on the way, not in the output; "
            "--raw shows them."
        )
    output.note(f"{output.counted(exporter.documents, 'document')}, as of cursor {exporter.cursor}")


class Exporter:
    """Reads the export to its end, over as many connections as that takes."""

    def __init__(
        self,
        client: Client,
        library: str,
        file: BinaryIO,
        *,
        include: list[str],
        raw: bool,
        follow: bool,
        filter: str | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.documents = 0
        self.deleted = 0
        self.cursor: str | None = None
        self.on_progress: Callable[[int], None] = lambda count: None
        self._client = client
        self._path = f"/v1/libraries/{segment(library)}/documents/stream"
        self._file = file
        self._include = include
        self._raw = raw
        self._follow = follow
        self._filter = filter
        self._backoff = backoff or Backoff()
        self._after: str | None = None
        self._connected = False
        self._held: list[bytes] = []
        self._held_documents = 0
        self._held_deletes = 0
        self._tailing = False

    def run(self) -> None:
        """Return at the end of the export; with `follow` only when interrupted."""
        while True:
            error: ClientError
            try:
                if self._read():
                    return
                error = Cut("the export ended without its summary")
            except (Cut, Problem) as failed:
                error = failed
            except ClientError as failed:
                if not self._connected:
                    raise
                error = failed
            if not error.retryable or (self._backoff.failures >= RETRIES and not self._follow):
                raise error
            output.note(f"{error.reason}; going on from the last checkpoint")
            self._backoff.wait(error.retry_after if isinstance(error, Problem) else 0.0)

    def _read(self) -> bool:
        """One connection: whether the export is finished."""
        self._held.clear()
        self._held_documents = self._held_deletes = 0
        params = [("include", ",".join(self._include))] if self._include else []
        params += [("after", self._after)] if self._after else []
        params += [("follow", "true")] if self._follow else []
        params += [("filter", self._filter)] if self._filter is not None else []
        self._tailing = False
        with self._client.stream("GET", self._path, params=params) as response:
            self._connected = True
            for message in messages(response):
                match message.get("type"):
                    case "document":
                        self._hold(message)
                        continue
                    case "deleted" | "unmatched":
                        self._held_deletes += 1
                    case "checkpoint":
                        self._after = str(message["after"])
                    case "summary":
                        self.cursor = message.get("cursor")
                        self._tailing = True
                        if not self._follow:
                            self._keep(message)
                            self._write()
                            return True
                    case "change":
                        self._change(message)
                    case "goodbye":
                        self._write()
                        raise Cut("the server said goodbye")
                    case "error":
                        raise stream_problem(message)
                self._keep(message)
                if self._tailing or message["type"] not in {"deleted", "unmatched"}:
                    self._write()
        return False

    def _hold(self, document: dict[str, Any]) -> None:
        self._held_documents += 1
        self._held.append(
            msgspec.json.encode(
                document if self._raw else importable(document, chunks=bool(self._include))
            )
        )

    def _keep(self, message: dict[str, Any]) -> None:
        if self._raw:
            self._held.append(msgspec.json.encode(message))

    def _change(self, message: dict[str, Any]) -> None:
        event = message["event"]
        document = message.get("document") or event.get("document")
        self.cursor = event["id"]
        if self._raw:
            return
        if document is not None:
            self._hold(document)
        elif event["type"] == "document.deleted":
            self._held_deletes += 1

    def _write(self) -> None:
        """What is held is covered now: write it out."""
        if self._held:
            self._file.write(b"\n".join(self._held) + b"\n")
            self._file.flush()
            self._held.clear()
        self.deleted += self._held_deletes
        self._held_deletes = 0
        if self._held_documents:
            self._backoff.reset()
            self.documents += self._held_documents
            self._held_documents = 0
            self.on_progress(self.documents)


def importable(document: dict[str, Any], *, chunks: bool) -> dict[str, Any]:
    """The input fields of a document as the server gives it; `chunks` takes them over the text."""
    made: dict[str, Any] = {"id": document["id"]}
    if document.get("title") is not None:
        made["title"] = document["title"]
    if "chunks" in document and (chunks or not ("text" in document or "texts" in document)):
        made["chunks"] = [
            {
                name: chunk[name]
                for name in ("text", "vector", "metadata")
                if chunk.get(name) is not None
            }
            for chunk in document["chunks"]
        ]
    else:
        form = "text" if document.get("text") is not None else "texts"
        made[form] = document[form]
    if document.get("metadata"):
        made["metadata"] = document["metadata"]
    return made


@contextmanager
def _opened(target: Path | None, *, atomic: bool) -> Iterator[BinaryIO]:
    """Standard output, or a file that takes its name only when it is whole."""
    if target is None:
        yield sys.stdout.buffer
        return
    part = target.with_name(target.name + ".part") if atomic else target
    try:
        with part.open("wb") as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(fileobj=file, mode="wb") as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield file
        if atomic:
            os.replace(part, target)
    except OSError as error:
        raise BadInput(f"{target} cannot be written ({error.strerror or error})") from error
