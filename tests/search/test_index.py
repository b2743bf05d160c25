"""The index against brute force, whatever the order of appends, removals, builds and reloads."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray
from search.brute import ranked, unit

from headwater.model import Metric, Rows, Vectors
from headwater.search import snapshot
from headwater.search.index import Plan, VectorIndex
from headwater.search.segment import Abandoned, Segment
from headwater.search.sieve import Sieve
from headwater.settings import SearchSettings

TINY = SearchSettings(seal_rows=16, exact_rows=0, ef_search=16, ef_construction=16)
SHARES = st.sampled_from([None, 0.0, 0.03, 0.3, 0.9, 1.0])
METRICS: list[Metric] = ["cosine", "dot", "euclidean"]


def random_vectors(seed: int, count: int, dimension: int) -> Vectors:
    """With twins and zero vectors among them."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(count, dimension)).astype(np.float32)
    for at in range(1, count):
        if random.random() < 0.1:
            matrix[at] = matrix[random.integers(at)]
        elif random.random() < 0.03:
            matrix[at] = 0
    return matrix


class Chosen:
    """A selection by a set of rows."""

    def __init__(self, rows: set[int]) -> None:
        self._rows = np.array(sorted(rows), np.int64)

    @property
    def count(self) -> int:
        return len(self._rows)

    def rows(self) -> Rows:
        return self._rows

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        return np.isin(rows, self._rows)


def search(
    index: VectorIndex,
    query: Vectors,
    k: int,
    *,
    exact: bool,
    only: set[int] | None = None,
) -> tuple[list[int], list[float]]:
    sieve = None if only is None else Sieve(Chosen(only))
    (found,) = index.search(query[None, :], [k], exact=exact, sieve=sieve)
    return found.rows.tolist(), [float(score) for score in found.scores]


class IndexMachine(RuleBasedStateMachine):
    """The model is a dictionary from row to vector."""

    @initialize(
        metric=st.sampled_from(METRICS),
        dimension=st.sampled_from([2, 5, 16]),
        quantized=st.booleans(),
    )
    def begin(self, metric: Metric, dimension: int, quantized: bool) -> None:
        self.held: dict[int, Vectors] = {}
        self.gone: list[int] = []
        self.dimension = dimension
        self.folder = Path(tempfile.mkdtemp())
        self.disk = self.folder / "disk" if quantized else None
        self.index = VectorIndex(dimension, metric, TINY, self.disk)
        self.built: tuple[Plan, Segment] | None = None
        self.saved: tuple[dict[int, Vectors], int] | None = None
        self.token = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            snapshot.remove(self.folder)

    @rule(seed=st.integers(0, 1 << 30), count=st.integers(1, 50), gap=st.integers(1, 5))
    def append(self, seed: int, count: int, gap: int) -> None:
        matrix = random_vectors(seed, count, self.dimension)
        rows = self.index.last_row + gap + np.arange(count, dtype=np.int64)
        self.index.append(rows, matrix)
        self.index.append(rows, matrix)  # repeating is harmless
        self.held.update(zip(rows.tolist(), matrix, strict=True))

    @rule(data=st.data(), share=st.floats(0, 1))
    def remove(self, data: st.DataObject, share: float) -> None:
        rows = sorted(self.held)
        if not rows:
            return
        first = data.draw(st.integers(0, len(rows) - 1))
        chosen = rows[first : first + max(1, int(share * len(rows)))]
        wanted = np.array(sorted({*chosen, *self.gone[-3:], 0, 1 << 40}), np.int64)
        assert self.index.remove(wanted) == len(chosen)
        for row in chosen:
            del self.held[row]
        self.gone += chosen

    @rule(quiet=st.booleans())
    def start_build(self, quiet: bool) -> None:
        plan = self.index.plan(quiet=quiet)
        if plan is not None:
            self.built = plan, self.index.build(plan, threading.Event())

    @rule()
    def finish_build(self) -> None:
        if self.built is not None:
            self.index.swap(*self.built)
            self.built = None

    @rule()
    def save(self) -> None:
        self.token += 1
        snapshot.save(
            self.folder / "saved",
            self.index.capture(),
            token=f"t{self.token}",
            library_id="a",
            log_id="logidx",
            dimension=self.dimension,
            metric=self.index.metric,
            position=self.token,
        )
        self.saved = dict(self.held), self.index.last_row

    @rule()
    def reload(self) -> None:
        if self.saved is None:
            return
        self.built = None
        self.index, position = snapshot.load(
            self.folder / "saved",
            TINY,
            library_id="a",
            log_id="logidx",
            dimension=self.dimension,
            metric=self.index.metric,
            disk=self.disk,
        )
        assert position == self.token
        self.held, last_row = dict(self.saved[0]), self.saved[1]
        assert self.index.last_row == last_row
        # Rows above the saved ones will be given out again.
        self.gone = [row for row in self.gone if row <= last_row and row not in self.held]

    @rule(seed=st.integers(0, 1 << 30), k=st.integers(1, 200), share=SHARES)
    def exact_search_equals_brute_force(self, seed: int, k: int, share: float | None) -> None:
        query = random_vectors(seed, 1, self.dimension)[0]
        only, held = self.chosen(seed, share)
        rows, scores = search(self.index, query, k, exact=True, only=only)
        assert (rows, scores) == ranked(self.index.metric, held, query, k)

    def chosen(self, seed: int, share: float | None) -> tuple[set[int] | None, dict[int, Vectors]]:
        """Rows a filter lets pass, gone ones among them, and what is held of them."""
        if share is None:
            return None, self.held
        random = np.random.default_rng(seed)
        only = {row for row in [*self.held, *self.gone] if random.random() < share}
        return only, {row: vector for row, vector in self.held.items() if row in only}

    @rule(seed=st.integers(0, 1 << 30), k=st.integers(1, 200), share=SHARES)
    def search_gives_live_rows_in_order(self, seed: int, k: int, share: float | None) -> None:
        query = random_vectors(seed, 1, self.dimension)[0]
        only, held = self.chosen(seed, share)
        rows, scores = search(self.index, query, k, exact=False, only=only)
        every, right = ranked(self.index.metric, held, query, len(held))
        expected = dict(zip(every, right, strict=True))
        assert [expected[row] for row in rows] == scores
        assert len(rows) == len(set(rows)) == min(k, len(held))
        pairs = [(-score, row) for row, score in zip(rows, scores, strict=True)]
        assert pairs == sorted(pairs)

    @invariant()
    def rows_agree(self) -> None:
        if hasattr(self, "held"):
            assert self.index.rows().tolist() == sorted(self.held)
            assert self.index.live == len(self.held)


IndexMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestIndexMachine = IndexMachine.TestCase


def settle(index: VectorIndex) -> None:
    while plan := index.plan(quiet=True):
        index.swap(plan, index.build(plan, threading.Event()))


def test_quiet_index_ends_as_one_segment_and_keeps_its_recall() -> None:
    options = SearchSettings(seal_rows=512, exact_rows=64, ef_search=96, ef_construction=64)
    random = np.random.default_rng(3)
    index = VectorIndex(24, "cosine", options)
    matrix = random.normal(size=(6_000, 24)).astype(np.float32)
    held: dict[int, Vectors] = {}
    for at in range(0, 6_000, 150):
        rows = np.arange(at + 1, at + 151)
        index.append(rows, matrix[at : at + 150])
        held.update(zip(rows.tolist(), matrix[at : at + 150], strict=True))
        if at % 900 == 0 and (plan := index.plan(quiet=False)):
            index.swap(plan, index.build(plan, threading.Event()))
        dead = np.array(sorted(random.choice(sorted(held), 20, replace=False)))
        index.remove(dead)
        for row in dead.tolist():
            del held[row]
    settle(index)
    assert len(index.parts.segments) == 1
    assert not index.parts.sealed
    assert index.head_rows < 64
    queries = random.normal(size=(50, 24)).astype(np.float32)
    found = index.search(queries, [10] * 50)
    assert not any(one.exact for one in found)
    hits = sum(
        len(set(one.rows.tolist()) & set(ranked("cosine", held, query, 10)[0]))
        for one, query in zip(found, queries, strict=True)
    )
    assert hits / 500 >= 0.97


def test_small_index_is_exact_and_large_k_is_complete() -> None:
    options = SearchSettings(seal_rows=256, exact_rows=100, ef_search=16, ef_construction=40)
    index = VectorIndex(8, "dot", options)
    matrix = random_vectors(1, 2_000, 8)
    index.append(np.arange(1, 91), matrix[:90])
    assert index.search(matrix[:1], [5])[0].exact
    index.append(np.arange(91, 2_001), matrix[90:])
    settle(index)
    index.remove(np.arange(1, 500))
    few, many = index.search(matrix[:2], [5, 10_000])
    assert not few.exact
    assert len(few.rows) == 5
    assert sorted(many.rows.tolist()) == list(range(500, 2_001))


def test_many_equal_vectors_are_ordered_by_row() -> None:
    index = VectorIndex(4, "cosine", SearchSettings(seal_rows=16))
    index.append(np.arange(1, 301), np.ones((300, 4), np.float32))
    rows, _ = search(index, np.ones(4, np.float32), 7, exact=True)
    assert rows == [1, 2, 3, 4, 5, 6, 7]


def test_zero_vectors_score_zero() -> None:
    index = VectorIndex(4, "cosine", SearchSettings())
    index.append(np.array([1, 2]), np.array([[0, 0, 0, 0], [-1, 0, 0, 0]], np.float32))
    assert search(index, np.array([1, 0, 0, 0], np.float32), 5, exact=False) == (
        [1, 2],
        [0.0, -1.0],
    )
    assert search(index, np.zeros(4, np.float32), 5, exact=False) == ([1, 2], [0.0, 0.0])


@pytest.mark.parametrize("metric", METRICS)
def test_filtered_search_finds_what_passes_however_little_that_is(metric: Metric) -> None:
    index = VectorIndex(16, metric, SearchSettings(seal_rows=4_000, exact_rows=0, ef_search=64))
    # Of one length and without copies: what graphs are good at (docs/limitations.md).
    matrix = unit(np.random.default_rng(3).normal(size=(8_100, 16)).astype(np.float32))
    index.append(np.arange(1, 8_101), matrix)
    while (plan := index.plan(quiet=False)) is not None:
        index.swap(plan, index.build(plan, threading.Event()))
    index.remove(np.arange(100, 300))
    held = {row: matrix[row - 1] for row in range(1, 8_101) if not 100 <= row < 300}
    ways = set()
    for share in (1.0, 0.5, 0.2, 0.02, 0.001):
        random = np.random.default_rng(7)
        only = {row for row in range(1, 8_101) if random.random() < share}
        passing = {row: vector for row, vector in held.items() if row in only}
        found = wanted = 0
        for query in random_vectors(4, 40, 16):
            (given,) = index.search(query[None, :], [10], sieve=Sieve(Chosen(only)))
            assert set(given.rows.tolist()) <= set(passing)
            _, best = ranked(metric, passing, query, 10)
            found += int((given.scores >= best[-1] - 1e-6).sum())
            wanted += len(best)
            ways |= {step.way for step in given.steps}
            assert sum(step.passing for step in given.steps) == len(passing)
        assert found >= 0.95 * wanted, share
    assert {"graph", "subset", "scan"} <= ways


def test_quantised_index_finds_what_the_whole_one_finds(tmp_path: Path) -> None:
    options = SearchSettings(seal_rows=2_000, exact_rows=0, ef_search=96)
    matrix = unit(np.random.default_rng(5).normal(size=(4_100, 32)).astype(np.float32))
    recalls, sizes = [], []
    for disk in (None, tmp_path):
        index = VectorIndex(32, "cosine", options, disk)
        index.append(np.arange(1, 4_101), matrix)
        while (plan := index.plan(quiet=False)) is not None:
            index.swap(plan, index.build(plan, threading.Event()))
        found = 0
        for query in unit(np.random.default_rng(6).normal(size=(60, 32)).astype(np.float32)):
            rows, given = search(index, query, 10, exact=False)
            right, scores = search(index, query, 10, exact=True)
            assert all(
                score == dict(zip(right, scores, strict=True)).get(row, score)
                for row, score in zip(rows, given, strict=True)
            )
            found += len(set(rows) & set(right))
        recalls.append(found / 600)
        (few,) = index.search(matrix[:1], [5], sieve=Sieve(Chosen({1, 2_005, 4_099})))
        assert {step.way for step in few.steps} == {"subset"}
        sizes.append(index.memory_bytes)
    assert sizes[1] <= sizes[0] - 3 * 32 * 4_000
    assert recalls[1] >= recalls[0] - 0.01
    assert list(tmp_path.iterdir()) == []  # its vectors lie in a file without a name


def test_stopped_build_changes_nothing() -> None:
    index = VectorIndex(4, "cosine", TINY)
    index.append(np.arange(1, 33), random_vectors(1, 32, 4))
    plan = index.plan(quiet=False)
    assert plan is not None
    stop = threading.Event()
    stop.set()
    with pytest.raises(Abandoned):
        index.build(plan, stop)
    index.drop()
    assert index.plan(quiet=False) is not None
    assert index.live == 32


def test_rows_that_do_not_rise_are_refused() -> None:
    index = VectorIndex(4, "cosine", TINY)
    with pytest.raises(ValueError, match="rise"):
        index.append(np.array([2, 1]), random_vectors(1, 2, 4))


def test_threads_search_while_the_loop_writes_and_a_thread_builds() -> None:
    """Every answer holds what was there all along, and nothing that was never there."""
    index = VectorIndex(8, "cosine", SearchSettings(seal_rows=64, exact_rows=16, ef_search=64))
    matrix = random_vectors(9, 4_000, 8)
    index.append(np.arange(1, 101), matrix[:100])
    done = threading.Event()
    wrong: list[str] = []

    def seek() -> None:
        query = matrix[7] + np.float32(0)
        while not done.is_set():
            (found,) = index.search(query[None, :], [1], exact=True)
            if not len(found.rows) or found.scores[0] < 0.9999:
                wrong.append(f"{found.rows} {found.scores}")

    threads = [threading.Thread(target=seek) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for at in range(100, 4_000, 50):
            index.append(np.arange(at + 1, at + 51), matrix[at : at + 50])
            index.remove(np.arange(at - 50, at - 30))
            plan = index.plan(quiet=False)
            if plan is not None:
                index.swap(plan, index.build(plan, threading.Event()))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
