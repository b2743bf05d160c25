"""The store contract, continued: the vectors of a library made anew, by another model maybe.

They are kept beside the valid ones until all are there. Then one small transaction makes them valid
(`SwitchGeneration`), and from that commit on every read gives them; they are moved to their place
in pieces afterwards, which nobody sees. A generation is a number that rises with each such switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from headwater.model import Vectors

RegenerationState = Literal["filling", "valid"]


@dataclass(frozen=True, slots=True)
class Regeneration:
    """A generation of a library in the making, or made."""

    generation: int
    embedder: str
    embedder_identity: str
    dimension: int
    state: RegenerationState


@dataclass(frozen=True, slots=True)
class BeginRegeneration:
    """→ `Regeneration`: the job's own, as it stands, or a new one. No change row.

    Raises `LibraryNotFound`; `RegenerationRunning` while another job makes one of this library;
    `RegenerationRefused` for a library with alerts, whose vectors would be of another model.
    """

    number: int
    job_id: str
    embedder: str
    embedder_identity: str
    dimension: int


@dataclass(frozen=True, slots=True)
class PutNextVectors:
    """→ `None`. Vectors of chunk `rows`, float32 (n, dimension). No change row.

    `lacking` are rows that get none. Rows that are gone by now do no harm. Raises
    `RegenerationRunning` when the generation is not in the making any more.
    """

    number: int
    generation: int
    rows: Sequence[int]
    vectors: Vectors
    lacking: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class SwitchGeneration:
    """→ `int`: how many chunks are still to be embedded first; 0: the generation is valid.

    `through_row` is where embedding has got to. Up to `most` chunks behind it are taken along:
    their documents are pending from then on, and so are those with chunks that get no vector.
    Change `library.regenerated`. Raises as `BeginRegeneration`.
    """

    number: int
    generation: int
    through_row: int
    most: int


@dataclass(frozen=True, slots=True)
class SettleVectors:
    """→ `bool`: whether there is more to do. Moves up to `limit` valid vectors to their place, or
    removes as many that will never be valid: of jobs that have ended, of deleted libraries.

    No change row: nobody could tell the difference.
    """

    limit: int


RegenerationCommand: TypeAlias = (
    BeginRegeneration | PutNextVectors | SwitchGeneration | SettleVectors
)
