"""The metadata of one library's chunks, turned around: from values to rows.

Answers filters for searches; `metadata_views.py` keeps it in step with the log. It selects exactly
the rows whose metadata `filters.matches`. One thread owns it; what it gives out may go anywhere.

Rows are known by slots (`metadata_table.py`), values by postings of slots, ranges by sorted
columns of slots. Nothing is ever taken out of these: a removed row's slot leaves `alive`, and
when many have, everything is numbered anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from pyroaring import BitMap

from headwater.filters import (
    MAX_PATH_CHARS,
    And,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    key_of,
)
from headwater.filters.filter import Kind
from headwater.model import Rows
from headwater.search.metadata_column import Column
from headwater.search.metadata_postings import Postings, SavedPostings, bits_of, union
from headwater.search.metadata_selection import Selection, slots_of
from headwater.search.metadata_table import Table

_KEPT_SELECTIONS = 32
_PURGE_SLOTS = 4_096
_PURGE_SHARE = 0.3
"""Dead slots beyond this share are worth numbering a library anew: 1 s for a million unique ids."""

_EMPTY = BitMap()


class Field:
    """What is known of one path. Scalars and elements of lists stand apart, for `$contains`."""

    __slots__ = ("columns", "elements", "plain", "present")

    def __init__(self) -> None:
        self.plain = Postings()
        self.elements = Postings()
        self.present = BitMap()
        self.columns: dict[Kind, Column] = {}

    def add(self, value: Any, slot: int, count: int, *, element: bool) -> None:
        key = key_of(value)
        (self.elements if element else self.plain).add(key, slot, count)
        for column in self.columns.values():
            column.add(key, slot, count)

    def column(self, kind: Kind) -> Column:
        column = self.columns.get(kind)
        if column is None:
            both = (*self.plain.of.items(), *self.elements.of.items())
            column = self.columns[kind] = Column(kind, both)
        return column


class SavedField(msgspec.Struct, frozen=True):
    path: str
    plain: SavedPostings
    elements: SavedPostings
    present: bytes


class Saved(msgspec.Struct, frozen=True):
    """An index as it can be written down. Columns are made again when a range asks."""

    rows: bytes
    alive: bytes
    fields: list[SavedField]


class MetadataIndex:
    """Not thread-safe, but for `memory_bytes`."""

    def __init__(self) -> None:
        self._table = Table()
        self._alive = BitMap()
        self._fields: dict[str, Field] = {}
        self._selections: OrderedDict[Filter, Selection] = OrderedDict()

    # ── Changes ─────────────────────────────────────────────────────────────────────────────────

    def put(
        self,
        first_row: int,
        count: int,
        metadata: bytes | Mapping[str, Any],
        overlays: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        """Take in a document's chunk rows `first_row` … `first_row + count - 1`.

        `overlays` holds the metadata that chunk rows have of their own, by row: it lies over the
        document's, key by key at the top. Rows that are there already are replaced.
        """
        if count:
            if self._table.has(first_row, count):
                self.remove(np.arange(first_row, first_row + count))
            self._index(first_row, count, _decoded(metadata), overlays or {})
            self._selections.clear()
            self._purge()

    def replace(
        self,
        first_row: int,
        count: int,
        metadata: bytes | Mapping[str, Any],
        overlays: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        """As `put`, for rows that are there; rows that are not are left out."""
        found = self._table.find(np.arange(first_row, first_row + count))
        if len(bits_of(found) & self._alive) == count:
            self.put(first_row, count, metadata, overlays)

    def remove(self, rows: Rows) -> None:
        """Take out these rising rows; unknown ones change nothing."""
        slots = self._table.find(rows)
        if len(slots):
            self._alive -= bits_of(slots)
            self._selections.clear()
            self._purge()

    def saved(self) -> Saved:
        return Saved(
            self._table.rows().tobytes(),
            self._alive.serialize(),
            [
                SavedField(
                    path, field.plain.saved(), field.elements.saved(), field.present.serialize()
                )
                for path, field in self._fields.items()
            ],
        )

    @classmethod
    def of(cls, saved: Saved) -> MetadataIndex:
        """The index that was `saved`."""
        made = cls()
        made._table = Table(np.frombuffer(saved.rows, dtype=np.int64).copy())
        made._alive = BitMap.deserialize(saved.alive)
        for each in saved.fields:
            field = made._fields[each.path] = Field()
            field.plain = Postings.read(each.plain)
            field.elements = Postings.read(each.elements)
            field.present = BitMap.deserialize(each.present)
        return made

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    def select(self, filter: Filter) -> Selection:
        """The rows whose metadata meets the filter."""
        selection = self._selections.get(filter)
        if selection is None:
            bits = self._meet(filter) & self._alive
            table = self._table
            selection = Selection(bits, table.rows(), rising=table.rising)
            self._selections[filter] = selection
            if len(self._selections) > _KEPT_SELECTIONS:
                self._selections.popitem(last=False)
        else:
            self._selections.move_to_end(filter)
        return selection

    @property
    def count(self) -> int:
        """Rows that are there."""
        return len(self._alive)

    @property
    def memory_bytes(self) -> int:
        """An estimate."""
        slots = self._table.length
        total = self._table.memory_bytes + slots // 8
        for path, field in list(self._fields.items()):
            total += 600 + len(path) + min(slots // 8, 2 * len(field.present))
            total += field.plain.memory_bytes(slots) + field.elements.memory_bytes(slots)
            total += sum(column.memory_bytes for column in list(field.columns.values()))
        return total + sum(kept.memory_bytes for kept in list(self._selections.values()))

    def _meet(self, filter: Filter) -> BitMap:
        """Slots that meet the filter, dead ones among them. Never to be changed."""
        match filter:
            case And(parts):
                bits = self._alive
                for part in parts:
                    bits = bits & self._meet(part)
                return bits
            case Or(parts):
                return BitMap.union(*(self._meet(part) for part in parts))
            case Not(part):
                return self._alive - self._meet(part)
        assert isinstance(filter, In | Range | Exists | Contains)
        field = self._fields.get(filter.path)
        if field is None:
            return _EMPTY
        plain, elements = field.plain.of, field.elements.of
        match filter:
            case In(_, keys):
                both = ((plain.get(key), elements.get(key)) for key in keys)
                return union(found for pair in both for found in pair if found is not None)
            case Range():
                return field.column(filter.kind).select(filter)
            case Exists():
                return field.present
            case Contains(_, key):
                found = [elements[key]] if key in elements else []
                if isinstance(key, str):
                    found += [
                        posting
                        for text, posting in plain.items()
                        if isinstance(text, str) and key in text
                    ]
                return union(found)

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────

    def _index(
        self,
        first_row: int,
        count: int,
        metadata: Mapping[str, Any],
        overlays: Mapping[int, Mapping[str, Any]],
    ) -> None:
        slot = self._table.append(first_row, count)
        self._alive.add_range(slot, slot + count)
        own = {row - first_row: overlay for row, overlay in sorted(overlays.items()) if overlay}
        for key, value in metadata.items():
            if own:
                for start, length in _runs(count, [at for at in own if key in own[at]]):
                    self._note(key, value, slot + start, length)
            else:
                self._note(key, value, slot, count)
        for at, overlay in own.items():
            for key, value in overlay.items():
                self._note(key, value, slot + at, 1)

    def _note(self, path: str, value: Any, slot: int, count: int, element: bool = False) -> None:
        if len(path) > MAX_PATH_CHARS:
            return  # no filter can name it; nested long keys would add up to a hundred times theirs
        field = self._fields.get(path)
        if field is None:
            field = self._fields[path] = Field()
        if not element:
            field.present.add_range(slot, slot + count)
        if isinstance(value, dict):
            for key, inner in value.items():
                self._note(f"{path}.{key}", inner, slot, count)
        elif isinstance(value, list):
            for item in value:
                self._note(path, item, slot, count, element=True)
        else:
            field.add(value, slot, count, element=element)

    def _purge(self) -> None:
        """Number the living anew when the dead have become many."""
        length = self._table.length
        dead = length - len(self._alive)
        if dead <= max(_PURGE_SLOTS, _PURGE_SHARE * length):
            return
        alive = self._alive
        slots = slots_of(alive)
        places = np.zeros(length + 1, dtype=np.int64)
        places[slots.astype(np.int64) + 1] = 1
        np.cumsum(places, out=places)
        for path, field in list(self._fields.items()):
            field.present = bits_of(places[slots_of(field.present & alive)])
            field.columns.clear()
            if not field.present:
                del self._fields[path]
                continue
            field.plain.renumber(alive, places)
            field.elements.renumber(alive, places)
        self._table = Table(self._table.rows()[slots])
        self._alive = BitMap(range(len(slots)))
        self._selections.clear()


def _decoded(metadata: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(metadata, bytes):
        return msgspec.json.decode(metadata, type=dict[str, Any])
    return metadata


def _runs(count: int, without: list[int]) -> Iterator[tuple[int, int]]:
    """The stretches of 0 … `count - 1` between the rising places `without`."""
    start = 0
    for place in (*without, count):
        if place > start:
            yield start, place - start
        start = place + 1
