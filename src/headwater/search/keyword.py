"""One library's keyword index: tantivy's BM25 over the texts of its chunks and their titles.

Kept by `KeywordViews` in its thread. What is on disk is a cache: tantivy commits, then a small
mark says which position the commit stands for. A crash between the two leaves the mark behind the
commit, and the changes after it are applied again, which changes nothing. The position is not in
the index itself: every marker document would count in BM25's statistics.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import tantivy
from numpy.typing import NDArray
from tantivy import Occur, Query

from headwater import failpoints
from headwater.model import Change, Library, Position, Rows
from headwater.search.base import Scores
from headwater.search.following import FollowingIndex, Unusable
from headwater.search.language import VERSION, analyzer, plain
from headwater.search.rowsets import NO_ROWS, spelled_out
from headwater.search.scratch import Scratch
from headwater.search.wording import Clause, clauses
from headwater.store.base import Reader

Allowed = Callable[[Rows], NDArray[np.bool_]]
"""Which of some rising chunk rows a search may give: bool, as many as asked about."""

TITLE_WEIGHT = 1.5

MARK = "view.json"
_FORMAT = 1
_HEAP_BYTES = 15_000_000
"""The least that tantivy takes for a thread; a commit's time does not grow with it."""
_OVERHEAD_BYTES = 8 << 20
_ROWS_AT_ONCE = 2_048
_CHARS_AT_ONCE = 1 << 20
_GENTLE_SHARE = 16
_SELECTED_IN_QUERY = 4_096
_MORE = 64
_WEIGH_EVERY = 16

log = structlog.get_logger(__name__)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name="words")
    builder.add_text_field("title", tokenizer_name="words")
    return builder.build()


SCHEMA = _schema()


Hits = tuple[Rows, Scores]
"""The best chunks, best first; equal scores by rising row. int64 and float32, (n,)."""

_NO_HITS: Hits = (NO_ROWS, np.empty(0, np.float32))


class KeywordIndex(FollowingIndex):
    """Kept below `folder`, or for this process alone in a folder of its own when that is None.

    Only one process at a time may use a `folder`.
    """

    def __init__(self, library: Library, log_id: str, folder: Path | None) -> None:
        self._library = library
        self._identity = {
            "format": _FORMAT,
            "words": VERSION,
            "log_id": log_id,
            "library_id": library.id,
            "language": library.language,
        }
        self._folder = folder
        self._own: Scratch | None = None
        """The folder of this process alone."""
        self._path: Path | None = None
        self._left: Path | None = None
        """Files of ours that must go with us: others are kept in their place."""
        self._index: tantivy.Index | None = None
        self._writer: tantivy.IndexWriter | None = None
        self._searcher: tantivy.Searcher | None = None
        self._highest = -1
        """No row above this was ever put in."""
        self._pending = False
        self._marked: Position | None = None
        self._page = _MORE
        self._commits = 0
        self._file_bytes = 0

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    def restore(self) -> Position | None:
        if self._folder is None:
            return None
        try:
            mark = json.loads((self._folder / MARK).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unusable(f"its mark cannot be read: {error}") from error
        try:
            position, name, opstamp, rows = (
                mark["position"],
                mark["index"],
                mark["opstamp"],
                mark["rows"],
            )
            differs = [key for key, value in self._identity.items() if mark[key] != value]
        except (KeyError, TypeError) as error:
            raise Unusable(f"its mark says nothing of {error}") from error
        if differs:
            raise Unusable(f"it is of another {', '.join(differs)}")
        path = self._folder / str(name)
        try:
            committed = _verified(path)
            self._use(path)
        except (OSError, ValueError, KeyError) as error:
            raise Unusable(f"its files are damaged: {error}") from error
        if committed < opstamp or (committed == opstamp and rows != self.rows):
            raise Unusable("its files are older than its mark")
        self._tidy(str(name))
        self._highest = self._highest_row()
        self._marked = position
        return int(position)

    def begin(self) -> None:
        self._release()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / MARK).unlink(missing_ok=True)
            if not self.gentle:
                self._tidy(None)
            home = self._folder
        else:
            self._own = Scratch()
            home = self._own.path
        self._highest = -1
        self._marked = None
        self._page = _MORE
        # A name of its own: a merge of an index that was here may not have heard yet.
        self._use(Path(tempfile.mkdtemp(prefix="index-", dir=home)))

    def disown(self) -> None:
        if self._folder is not None:
            (self._folder / MARK).unlink(missing_ok=True)
            self._folder = None
            self._left = self._path

    def fill(self, reader: Reader, after: int) -> int | None:
        found = reader.texts_after(self._library.number, after, self._page)
        if not found:
            return None
        self._put(found)
        self._adapt(sum(len(text or "") for _, _, text in found))
        return found[-1][0]

    def apply(self, reader: Reader, changes: Sequence[Change]) -> None:
        out = spelled_out(
            span for change in changes for span in (change.removed, change.kept, change.added)
        )
        self._take_out(np.unique(out[out <= self._highest]))
        put = np.unique(
            spelled_out(span for change in changes for span in (change.added, change.kept))
        )
        while len(put):
            now, put = put[: self._page].tolist(), put[self._page :]
            passages = reader.passages(now)
            there = [passages[row] for row in now if row in passages]
            self._put((passage.row, passage.title, passage.text) for passage in there)
            self._adapt(sum(len(passage.text or "") for passage in there))

    def commit(self, position: Position) -> None:
        if self._pending:
            failpoints.reach("keyword.before_commit")
            self._of_writer.commit()
            self._reload()
            self._pending = False
            failpoints.reach("keyword.after_commit")
        if position != self._marked:
            self._mark(position)

    def close(self, position: Position | None, *, spoilt: bool = False) -> None:
        try:
            if spoilt and self._folder is not None:
                (self._folder / MARK).unlink(missing_ok=True)
            elif position is not None and self._index is not None and position != self._marked:
                self.commit(position)
        except (OSError, ValueError) as error:
            log.error("view.not_marked", library=self._library.id, error=str(error))
        self._release()

    @property
    def rows(self) -> int:
        return 0 if self._searcher is None else int(self._searcher.num_docs)

    @property
    def memory_bytes(self) -> int:
        return _HEAP_BYTES + _OVERHEAD_BYTES + self._file_bytes

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    def search(
        self,
        query: str,
        k: int,
        *,
        allowed: Allowed | None = None,
        selected: Rows | None = None,
    ) -> Hits:
        """The `k` best chunks with BM25 over text and title, exactly.

        Only those that are `allowed`, or among `selected`, which rises and says the same.
        """
        asked = composed(clauses(query, self._library.language), self._in_titles)
        if asked is None or k < 1 or (selected is not None and not len(selected)):
            return _NO_HITS
        if selected is not None:
            if len(selected) <= _SELECTED_IN_QUERY:
                asked = Query.boolean_query([(Occur.Must, asked), (Occur.Must, _one_of(selected))])
                allowed = None
            else:
                allowed = _among(selected)
        try:
            return self._best(asked, k, allowed)
        except (OSError, ValueError) as error:
            raise Unusable(f"the index cannot be searched: {error}") from error

    def _in_titles(self, word: str) -> bool:
        return bool(self._of_searcher.doc_freq("title", word))

    def all_rows(self) -> Rows:
        """Every chunk row there is, rising: for checking against the store."""
        if not self.rows:
            return NO_ROWS
        found = self._of_searcher.search(Query.all_query(), self.rows, count=False)
        return np.sort(self._rows_of(found.hits))

    def _best(self, query: Query, k: int, allowed: Allowed | None) -> Hits:
        """Ask for more until the `k`th is certain: equal scores are in no order of ours."""
        total = self.rows
        limit = min(k + _MORE if allowed is None else 2 * k + _MORE, max(1, total))
        while True:
            hits = self._of_searcher.search(query, limit, count=False).hits
            rows = self._rows_of(hits)
            scores = np.array([score for score, _ in hits], np.float32)
            last = scores[-1] if len(hits) == limit and limit < total else None
            if allowed is not None:
                rising = np.argsort(rows)
                fit = np.empty(len(rows), np.bool_)
                fit[rising] = allowed(rows[rising])
                rows, scores = rows[fit], scores[fit]
            if last is None or (len(rows) >= k and scores[k - 1] > last):
                order = np.lexsort((rows, -scores))[:k]
                return rows[order], scores[order]
            limit = min(total, limit * 4)

    def _rows_of(self, hits: Sequence[tuple[Any, tantivy.DocAddress]]) -> Rows:
        values = self._of_searcher.fast_field_values("row", [address for _, address in hits])
        return np.array(values, np.int64)

    # ── tantivy ─────────────────────────────────────────────────────────────────────────────────

    @property
    def _of_writer(self) -> tantivy.IndexWriter:
        if self._writer is None:
            raise Unusable("the index is closed")
        return self._writer

    @property
    def _of_searcher(self) -> tantivy.Searcher:
        if self._searcher is None:
            raise Unusable("the index is closed")
        return self._searcher

    def _use(self, path: Path) -> None:
        self._path = path
        index = self._index = tantivy.Index(SCHEMA, path=str(path))
        index.register_tokenizer("words", analyzer(self._library.language))
        index.config_reader("manual")
        self._writer = index.writer(_HEAP_BYTES, 1)
        self._pending = False
        self._commits = 0
        self._reload()

    def _reload(self) -> None:
        assert self._index is not None
        self._index.reload()
        self._searcher = self._index.searcher()
        if self._commits % _WEIGH_EVERY <= 1 and self._path is not None:
            self._file_bytes = _bytes_in(self._path)
        self._commits += 1

    def _put(self, found: Iterable[tuple[int, str | None, str | None]]) -> None:
        writer = self._of_writer
        for row, title, text in found:
            document = tantivy.Document()
            document.add_unsigned("row", row)
            if text:
                document.add_text("text", plain(text))
            if title:
                document.add_text("title", plain(title))
            writer.add_document(document)
            self._highest = max(self._highest, row)
            self._pending = True

    def _take_out(self, rows: Rows) -> None:
        if len(rows):
            # By query: a term made of a Python int is signed, and would find nothing.
            self._of_writer.delete_documents_by_query(_one_of(rows, scored=True))
            self._pending = True

    def _adapt(self, chars: int) -> None:
        """Have the next page take about as long, whether the texts are short or long."""
        share = _GENTLE_SHARE if self.gentle else 1
        if chars > _CHARS_AT_ONCE // share:
            self._page = max(1, self._page // 2)
        elif chars < _CHARS_AT_ONCE // share // 4:
            self._page = min(_ROWS_AT_ONCE // share, self._page * 2)

    def _highest_row(self) -> int:
        found = self._of_searcher.search(
            Query.all_query(), 1, count=False, order_by_field="row"
        ).hits
        return int(found[0][0]) if found else -1

    def _mark(self, position: Position) -> None:
        if self._folder is not None and self._path is not None:
            mark = self._identity | {
                "index": self._path.name,
                "opstamp": self._of_writer.commit_opstamp,
                "rows": self.rows,
                "position": position,
            }
            partial = self._folder / f"{MARK}.partial"
            partial.write_text(json.dumps(mark), encoding="utf-8")
            os.replace(partial, self._folder / MARK)
        self._marked = position

    def _tidy(self, name: str | None) -> None:
        """Take away what others left in the folder, but for the mark and the index `name`."""
        assert self._folder is not None
        for entry in self._folder.iterdir():
            if entry.name != name and entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)

    def _release(self) -> None:
        self._searcher = self._writer = self._index = None
        if self._own is not None:
            self._own.close()
            self._own = None
        if self._left is not None:
            shutil.rmtree(self._left, ignore_errors=True)
            self._left = None
        self._path = None


def composed(wanted: Sequence[Clause], in_titles: Callable[[str], bool]) -> Query | None:
    """The clauses as one query; None when nothing could be found with them.

    Titles are asked only for words that are `in_titles`: a union of plain terms is a fifth faster.
    """
    parts: list[tuple[Occur, Query]] = []
    # What is said several times counts as often, and is looked up once.
    times = Counter(clause.key for clause in wanted)
    for clause in {clause.key: clause for clause in wanted}.values():
        said = times[clause.key]
        text, title = _in_field(clause, "text"), _in_field(clause, "title")
        both = [(Occur.Should, text if said == 1 else Query.boost_query(text, said))]
        if all(in_titles(word.text) for word in clause.words):
            both.append((Occur.Should, Query.boost_query(title, TITLE_WEIGHT * said)))
        if clause.sign == "":
            parts += both
        else:
            occur = Occur.Must if clause.sign == "+" else Occur.MustNot
            parts.append((occur, Query.boolean_query(both)))
    if all(occur == Occur.MustNot for occur, _ in parts):
        return None
    return Query.boolean_query(parts)


def _in_field(clause: Clause, field: str) -> Query:
    if len(clause.words) == 1:
        return Query.term_query(SCHEMA, field, clause.words[0].text, "freq")
    first = clause.words[0].position
    return Query.phrase_query(
        SCHEMA, field, [(word.position - first, word.text) for word in clause.words]
    )


def _one_of(rows: Rows, *, scored: bool = False) -> Query:
    query = Query.term_set_query(SCHEMA, "row", rows.tolist())
    return query if scored else Query.const_score_query(query, 0.0)


def _among(selected: Rows) -> Allowed:
    def allowed(rows: Rows) -> NDArray[np.bool_]:
        places = np.minimum(np.searchsorted(selected, rows), len(selected) - 1)
        fit: NDArray[np.bool_] = selected[places] == rows
        return fit

    return allowed


def _bytes_in(path: Path) -> int:
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # merged away meanwhile
                continue
    return total


def _verified(path: Path) -> int:
    """The commit's stamp, when every file it names is whole. Raises ValueError, OSError, KeyError.

    tantivy itself looks at its checksums only when asked, which its Python side cannot. A file
    ends with a footer in JSON that has the CRC-32 of what is before it, the footer's length, and
    a magic number (tantivy, src/directory/footer.rs).
    """
    meta = json.loads((path / "meta.json").read_bytes())
    wanted = {segment["segment_id"].replace("-", "") for segment in meta["segments"]}
    whole: set[str] = set()
    for file in sorted(path.iterdir()):
        segment = file.name.partition(".")[0]
        if segment not in wanted:
            continue
        data = memoryview(file.read_bytes())
        length = int.from_bytes(data[-8:-4], "little")
        footer = json.loads(bytes(data[-8 - length : -8]))
        if zlib.crc32(data[: -8 - length]) != footer["crc"]:
            raise ValueError(f"the checksum of {file.name} differs")
        whole.add(segment)
    if whole != wanted:
        raise ValueError(f"{len(wanted - whole)} of its segments are not there")
    return int(meta["opstamp"])
