"""What `import` reads: NDJSON, CSV, folders of text, as records ready to be sent.

A record is one line of the document stream with its place in the source. Files are read as they
are needed, so size does not matter. Must never give a document another id in the middle of an
import: a record's line is made once and sent again as it is.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import msgspec

from headwater.cli.client import BadInput
from headwater.cli.records import Identifier, Ids, Item, Pause, Record, Unreadable

_TEXT_SUFFIXES = {".txt": "text", ".md": "markdown", ".markdown": "markdown"}
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


@dataclass(slots=True)
class Columns:
    """Which CSV columns are what. None: the usual name when there is such a column."""

    text: str = "text"
    id: str | None = None
    title: str | None = None
    delimiter: str | None = None


@dataclass(slots=True)
class Source:
    """Records in order. `total` is the size in bytes when it is known."""

    name: str
    items: Iterator[Item]
    total: int | None = None


@contextmanager
def open_source(
    path: str, *, ids: Ids, columns: Columns, encoding: str = "utf-8"
) -> Iterator[Source]:
    """The source named on the command line: `-`, a folder or a file. Raises `BadInput`."""
    with ExitStack() as opened:
        yield _source(path, opened, ids=ids, columns=columns, encoding=encoding)


def _source(path: str, opened: ExitStack, *, ids: Ids, columns: Columns, encoding: str) -> Source:
    if path == "-":
        return Source("stdin", _ndjson(_standard_input(), Identifier("stdin", ids)))
    file = Path(path)
    if file.is_dir():
        found = sorted(
            child
            for child in file.rglob("*")
            if child.suffix.lower() in _TEXT_SUFFIXES
            and child.is_file()
            and not any(part.startswith(".") for part in child.relative_to(file).parts)
        )
        if not found:
            raise BadInput(f"{path} holds no .txt or .md files")
        return Source(path, _folder(file, found), sum(child.stat().st_size for child in found))
    if not file.is_file():
        raise BadInput(f"{path} is no file or folder")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    raw: BinaryIO = opened.enter_context(file.open("rb"))
    plain = raw
    if packed:
        plain = cast("BinaryIO", opened.enter_context(gzip.GzipFile(fileobj=raw)))
    identifier = Identifier(file.name, ids)
    total = file.stat().st_size
    if kind in ([".csv"], [".tsv"]):
        columns.delimiter = columns.delimiter or ("\t" if kind == [".tsv"] else ",")
        return Source(path, _csv(plain, raw.tell, columns, identifier, encoding), total)
    if kind == [".json"] and _is_array(plain):
        return Source(path, _array(plain, identifier), None)
    if kind in ([".ndjson"], [".jsonl"], [".json"]):
        return Source(path, _ndjson(_file_lines(plain, raw.tell), identifier), total)
    raise BadInput(
        f"{path} is of no known kind; use .ndjson, .jsonl, .json, .csv or .tsv (also with .gz), "
        "a folder of .txt and .md files, or - for NDJSON on standard input"
    )


def _file_lines(file: BinaryIO, tell: Callable[[], int]) -> Iterator[tuple[bytes, int]]:
    try:
        for line in file:
            yield line, tell()
    except (OSError, EOFError) as error:
        raise BadInput(f"the file cannot be read to its end ({error})") from error


def _standard_input() -> Iterator[tuple[bytes, int] | None]:
    """Lines of standard input; None when the sender pauses for half a second."""
    descriptor = sys.stdin.fileno()
    rest, done, quiet = b"", 0, False
    while True:
        if not quiet and not select.select([descriptor], [], [], 0.5)[0]:
            quiet = True
            yield None
        piece = os.read(descriptor, 1 << 16)
        quiet = False
        if not piece:
            break
        *parts, rest = (rest + piece).split(b"\n")
        done += len(piece)
        for part in parts:
            yield part, done
    if rest:
        yield rest, done


def _ndjson(numbered: Iterator[tuple[bytes, int] | None], identifier: Identifier) -> Iterator[Item]:
    number = 0
    for entry in numbered:
        if entry is None:
            yield Pause()
            continue
        line, done = entry
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line := line.strip():
            yield Record(identifier.ensure(line, number), f"line {number}", done)


def _is_array(file: BinaryIO) -> bool:
    start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return start.startswith(b"[")


def _array(file: BinaryIO, identifier: Identifier) -> Iterator[Item]:
    try:
        whole = file.read().removeprefix(b"\xef\xbb\xbf")
        entries = msgspec.json.decode(whole, type=list[Any])
    except msgspec.DecodeError as error:
        raise BadInput(f"{identifier.name} is not a JSON array ({error})") from error
    for number, entry in enumerate(entries, 1):
        yield Record(identifier.ensure(msgspec.json.encode(entry), number), f"item {number}")


def _csv(
    file: BinaryIO,
    tell: Callable[[], int],
    columns: Columns,
    identifier: Identifier,
    encoding: str,
) -> Iterator[Item]:
    csv.field_size_limit(1 << 30)
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    place = "line 1"
    try:
        with io.TextIOWrapper(file, codec, newline="") as text:
            for item in _rows(text, tell, columns, identifier):
                place = item.place
                yield item
    except UnicodeDecodeError as error:
        raise BadInput(f"{identifier.name} is not {encoding}; name its --encoding") from error
    except LookupError as error:
        raise BadInput(f"{encoding!r} is no known encoding") from error
    except (csv.Error, OSError, EOFError) as error:
        where = f"{identifier.name}, after {place}"
        raise BadInput(f"{where}: the CSV cannot be read ({error})") from error


def _rows(
    text: TextIO, tell: Callable[[], int], columns: Columns, identifier: Identifier
) -> Iterator[Record | Unreadable]:
    reader = csv.DictReader(text, delimiter=columns.delimiter or ",")
    names = list(reader.fieldnames or ())
    wanted = {"text": columns.text, "id": columns.id, "title": columns.title}
    for option, column in wanted.items():
        if column is not None and column not in names:
            raise BadInput(
                f"there is no column {column!r}; name one of {', '.join(names) or 'none'} "
                f"with --{option}-column"
            )
    id_column = columns.id or ("id" if "id" in names else None)
    title_column = columns.title or ("title" if "title" in names else None)
    for row in reader:
        number, done = reader.line_num, tell()
        place = f"line {number}"
        if None in row or None in row.values():
            detail = f"the row has not the header's {len(names)} fields"
            yield Unreadable(place, "invalid_row", detail, done)
            continue
        document: dict[str, Any] = {"text": row.pop(columns.text)}
        own_id = row.pop(id_column, "") if id_column else ""
        document["id"] = own_id or identifier.make(number)
        if title_column and (title := row.pop(title_column, "")):
            document["title"] = title
        if metadata := {name: value for name, value in row.items() if value != ""}:
            document["metadata"] = metadata
        yield Record(msgspec.json.encode(document), place, done)


def _folder(root: Path, files: list[Path]) -> Iterator[Item]:
    done = 0
    for file in files:
        name = file.relative_to(root).as_posix()
        try:
            content = file.read_bytes()
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            yield Unreadable(name, "unreadable_file", str(error), done)
            continue
        done += len(content)
        kind = _TEXT_SUFFIXES[file.suffix.lower()]
        heading = _HEADING.search(text) if kind == "markdown" else None
        document = {
            "id": name,
            "title": heading[1] if heading else file.stem,
            "text": text,
            "document_type": kind,
        }
        yield Record(msgspec.json.encode(document), name, done)
