"""Keyword search against plain BM25 over a real store, through churn, restarts and damage."""

from __future__ import annotations

import json
import random
from pathlib import Path

import anyio
import numpy as np
import pytest
from heard import Heard
from search.keyword_house import KeywordHouse, keyword_house
from store.backend import draft

from headwater.errors import LibraryNotFound
from headwater.model import Rows
from headwater.search.keyword import KeywordIndex
from headwater.store.base import DeleteDocument, PatchDocument, PutDocuments, Reader, TrimLog
from headwater.store.library_commands import DeleteLibrary

pytestmark = pytest.mark.anyio

VOCABULARY = [f"w{number}" for number in range(12)]


def text(dice: random.Random) -> str:
    return " ".join(dice.choices(VOCABULARY, k=dice.randint(1, 12)))


async def fill(house: KeywordHouse, count: int, seed: int = 1) -> None:
    dice = random.Random(seed)
    library = await house.again()
    await house.put_all(
        library,
        [
            (
                f"d{number}",
                [text(dice) for _ in range(dice.randint(1, 3))],
                dice.choice([None, text(dice)]),
            )
            for number in range(count)
        ],
    )


@pytest.mark.parametrize("seed", range(4))
async def test_the_order_is_that_of_plain_bm25(tmp_path: Path, seed: int) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await fill(house, 150, seed)
        dice = random.Random(seed)
        for _ in range(10):
            await house.agrees(library, dice.sample(VOCABULARY, dice.randint(1, 4)))
            await house.agrees(library, dice.sample(VOCABULARY, 2), k=dice.randint(1, 20))


async def test_documents_are_found_as_soon_as_they_are_written(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        assert await house.found(library, "apple") == []
        await house.put(library, "a", "an apple")
        assert await house.found(library, "apple") == ["an apple"]
        await house.put(library, "a", "a pear", "another apple")
        assert await house.found(library, "apple") == ["another apple"]
        position = await house.put(library, "b", "pear")
        await house.views.caught_up(library.id, position)
        await house.store.write(DeleteDocument(library.number, "a"))
        assert await house.found(library, "pear apple") == ["pear"]


async def test_many_small_writes_at_once_are_all_found(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        house.views.open(library)

        async def write(number: int) -> None:
            position = await house.put(library, f"d{number}", f"common only{number}")
            await house.views.caught_up(library.id, position)
            assert await house.found(library, f"only{number}") == [f"common only{number}"]

        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(write, number)
        assert len(await house.found(library, "common")) == 60


@pytest.mark.parametrize("seed", range(3))
async def test_after_churn_a_restart_or_a_rebuild_the_index_agrees_with_the_store(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await fill(house, 40, seed)
        for _ in range(60):
            id = f"d{dice.randrange(50)}"
            stored = await house.document(library, id)
            what = dice.choice(["put", "put", "delete", "title", "metadata", "ask"])
            if what == "put":
                await house.put(library, id, *[text(dice) for _ in range(dice.randint(1, 3))])
            elif what == "ask":
                await house.is_complete(library)
            elif stored is not None and what == "delete":
                await house.store.write(DeleteDocument(library.number, id))
            elif stored is not None and what == "title":
                title = dice.choice([None, text(dice)])
                await house.store.write(PatchDocument(library.number, id, title=title))
            elif stored is not None:
                await house.store.write(
                    PatchDocument(library.number, id, metadata={"n": dice.random()})
                )
        await house.is_complete(library)
        passages = await house.passages(library)
        for word in VOCABULARY:
            rows, _, _ = await house.views.search(library, word, 1_000)
            having = {
                row for row, (title, body) in passages.items() if word in f"{title} {body}".split()
            }
            assert set(rows.tolist()) == having
    async with keyword_house(tmp_path) as house:
        await house.is_complete(library)
        await house.put(library, "after", "w0 restart")
        assert await house.found(library, "restart") == ["w0 restart"]
        await house.is_complete(library)
    async with keyword_house(tmp_path, keeps=False) as house:
        await house.agrees(library, VOCABULARY[:3])


async def test_a_title_that_is_patched_is_found_by_its_new_words(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put(library, "a", "one", "two", title="old words")
        assert await house.found(library, "old") == ["one", "two"]
        await house.store.write(PatchDocument(library.number, "a", title="new words"))
        assert await house.found(library, "old") == []
        assert await house.found(library, "new") == ["one", "two"]
        await house.store.write(PatchDocument(library.number, "a", title=None))
        assert await house.found(library, "words") == []
        assert await house.found(library, "two") == ["two"]


async def test_equal_scores_come_by_rising_row(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        for part in range(5):
            await house.put_all(
                library, [(f"d{part}-{number}", ["same"], None) for number in range(200)]
            )
            await house.views.search(library, "same", 1)
        await house.put(library, "d2-7", "better better same")
        rows, scores, _ = await house.views.search(library, "same better", 300)
        passages = await house.passages(library)
        alike = sorted(row for row, (_, body) in passages.items() if body == "same")
        assert rows.tolist() == [max(passages), *alike[:299]]
        assert scores[0] > scores[1] == scores[-1]


async def test_a_filter_gives_the_best_of_those_that_pass(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await fill(house, 300)
        everything, scores, _ = await house.views.search(library, "w1 w2", 10_000)
        dice = np.random.default_rng(3)
        for share in (0.01, 0.2, 0.9):
            few: Rows = np.sort(everything[dice.random(len(everything)) < share])

            def allowed(rows: Rows, few: Rows = few) -> np.typing.NDArray[np.bool_]:
                assert (np.diff(rows) > 0).all()
                return np.isin(rows, few)

            keep = np.isin(everything, few)
            for k in (1, 7, 10_000):
                wanted = everything[keep][:k], scores[keep][:k]
                for filter in ({"allowed": allowed}, {"selected": few}):
                    rows, found, _ = await house.views.search(library, "w1 w2", k, **filter)
                    assert rows.tolist() == wanted[0].tolist()
                    assert found.tolist() == pytest.approx(wanted[1].tolist(), rel=1e-6)
        assert await house.found(library, "w1", selected=np.empty(0, np.int64)) == []


async def test_a_large_selection_is_exact_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.search.keyword._SELECTED_IN_QUERY", 3)
    await test_a_filter_gives_the_best_of_those_that_pass(tmp_path)


async def test_words_are_stemmed_in_the_library_s_language(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        english = await house.library("english", "en")
        plain = await house.library("plain", "none")
        german = await house.library("german", "de")
        for library in (english, plain):
            await house.put(library, "a", "He was running to the connections")
        await house.put(german, "a", "Die Häuser standen")
        assert len(await house.found(english, "runs connected")) == 1
        assert len(await house.found(english, '"run to the connection"')) == 1
        assert await house.found(plain, "runs connected") == []
        assert len(await house.found(plain, "RUNNING")) == 1
        assert len(await house.found(german, "hauses HÄUSER")) == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("red", {1, 2, 4}),
        ("red wine", {1, 2, 3, 4}),
        ('"red wine"', {1}),
        ("“red wine”", {1}),
        ('"wine red"', {2}),
        ("+red +wine", {1, 2}),
        ("red -wine", {4}),
        ('wine -"red wine"', {2, 3}),
        ("+wine red", {1, 2, 3}),
        ('+"white wine" red', {3}),
        ("-red", set()),
        ("- + -- \"\" !? ''", set()),
        ('"red wine', {1, 2, 3, 4}),
        ("wi-fi", {5}),
        ("WI-FI/red", {1, 2, 4, 5}),
        ("fi-wi", set()),
        ("don't", {6}),
        ("os.path.join", {7}),
        ("path", {7}),
        ("C++", {8}),
        ("title", {9}),
        ("+title +body", {9}),
        ("text:red AND (wine OR *) ^2 ~ [a TO b]", {1, 2, 3, 7}),
        ("日本語", {10}),
        ("cafe\u0301", {11}),
        ("CAFÉ", {11}),
        ("\ud800 red \x00", {1, 2, 4}),
        ("x" * 9_000 + " red", {1, 2, 4}),
        ("red " * 2_000, {1, 2, 4}),
        ("", set()),
    ],
)
async def test_any_text_is_a_query(tmp_path: Path, query: str, found: set[int]) -> None:
    texts = [
        "the red wine",
        "it is wine red",
        "white wine",
        "red",
        "wi-fi",
        "I don't",
        "os.path.join(a, b)",
        "C++ is",
        "body",
        "日本語",
        "le café",
    ]
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put_all(
            library,
            [
                (str(number), [body], "the title" if body == "body" else None)
                for number, body in enumerate(texts, 1)
            ],
        )
        assert {1 + texts.index(one) for one in await house.found(library, query)} == found


# ── Files ───────────────────────────────────────────────────────────────────────────────────────


def index_of(house_folder: Path) -> Path:
    (found,) = house_folder.glob("*/index-*")
    return found


async def test_a_restart_goes_on_with_the_files_there_are(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await fill(house, 50)
        await house.is_complete(library)
        before = index_of(house.folder)
        await house.put(library, "x", "unseen by the index")
    async with keyword_house(tmp_path) as house:
        await house.put(library, "y", "unseen either")
        await house.is_complete(library)
        assert index_of(house.folder) == before
        await house.agrees(library, ["w1", "unseen"])


@pytest.mark.parametrize(
    "damage", ["cut", "flip", "gone", "no meta", "mark", "mark cut", "language", "log", "ahead"]
)
async def test_damaged_files_cost_only_a_rebuild(tmp_path: Path, damage: str) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await fill(house, 50)
        await house.is_complete(library)
    index = index_of(tmp_path / "keyword")
    mark = index.parent / "view.json"
    postings = next(index.glob("*.idx"))
    if damage == "cut":
        postings.write_bytes(postings.read_bytes()[:-20])
    elif damage == "flip":
        data = bytearray(postings.read_bytes())
        data[len(data) // 3] ^= 1
        postings.write_bytes(data)
    elif damage == "gone":
        postings.unlink()
    elif damage == "no meta":
        (index / "meta.json").unlink()
    elif damage == "mark":
        mark.write_text("[]")
    elif damage == "mark cut":
        mark.write_bytes(mark.read_bytes()[:10])
    else:
        told = json.loads(mark.read_text())
        told |= {
            "language": {"language": "de"},
            "log": {"log_id": "zzzzzz"},
            "ahead": {"position": 10**6},
        }[damage]
        mark.write_text(json.dumps(told))
    async with keyword_house(tmp_path) as house:
        await house.agrees(library, ["w1", "w2"])
        await house.is_complete(library)
        assert index_of(house.folder) != index
        (status,) = house.views.status()
        assert status.state == "ready"
        assert status.reason


async def test_a_process_that_does_not_keep_the_folder_leaves_it_alone(tmp_path: Path) -> None:
    async with keyword_house(tmp_path, keeps=False) as house:
        library = await house.library()
        await fill(house, 20)
        await house.agrees(library, ["w1"])
        assert not house.folder.exists()


async def test_a_deleted_library_is_gone_with_its_files(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library, other = await house.library(), await house.library("other")
        await house.put(library, "a", "apple")
        await house.put(other, "b", "apple tree")
        assert await house.found(library, "apple") == ["apple"]
        assert await house.found(other, "apple") == ["apple tree"]
        position = await house.store.write(DeleteLibrary(library.number))
        await house.views.caught_up(other.id, position)
        with pytest.raises(LibraryNotFound):
            await house.views.search(library, "apple", 1)
        assert await house.found(other, "apple") == ["apple tree"]
        assert [status.library_id for status in house.views.status()] == [other.id]
        assert not (house.folder / library.id).exists()
        assert (house.folder / other.id).exists()


async def test_files_of_a_library_deleted_meanwhile_are_swept(tmp_path: Path, heard: Heard) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put(library, "a", "apple")
        await house.is_complete(library)
    async with keyword_house(tmp_path, keeps=False) as house:
        await house.store.write(DeleteLibrary(library.number))
    async with keyword_house(tmp_path) as house:
        await heard.line("view.removed", library=library.id)
        assert not (house.folder / library.id).exists()


# ── Following ───────────────────────────────────────────────────────────────────────────────────


async def test_others_are_answered_while_a_library_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.search.keyword._ROWS_AT_ONCE", 64)
    answers = 0
    fill_page = KeywordIndex.fill

    def fill(index: KeywordIndex, reader: Reader, after: int) -> int | None:
        """Go on for as long as two questions take, be the machine slow or fast."""
        next_after = fill_page(index, reader, after)
        return after if next_after is None and answers < 2 else next_after

    async with keyword_house(tmp_path) as house:
        large, small = await house.library(), await house.library("small")
        drafts = [draft(f"d{n}", *[f"word{n} x{m}" for m in range(20)]) for n in range(500)]
        vectors = np.ones((10_000, 2), np.float32)
        await house.store.write(PutDocuments(large.number, drafts, vectors))
        await house.put(small, "a", "quick")
        await house.views.search(small, "quick", 1)
        monkeypatch.setattr(KeywordIndex, "fill", fill)
        house.views.open(large)
        while (status := house.views.status()[-1]).state in ("loading", "rebuilding"):
            await house.put(small, f"more{answers}", f"quick {answers}")
            assert len(await house.found(small, "quick")) == answers + 2
            answers += 1
        assert answers > 1, status
        assert await house.found(large, "+word499 +x7") == ["word499 x7"]
        await house.is_complete(large)


async def test_what_is_written_while_a_library_is_built_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.search.keyword._ROWS_AT_ONCE", 64)
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await fill(house, 600)
        house.views.open(library)
        dice = random.Random(5)
        while house.views.status()[0].state in ("loading", "rebuilding"):
            id = f"d{dice.randrange(650)}"
            await house.put(library, id, f"changed {text(dice)}")
            await house.store.write(DeleteDocument(library.number, id))
            await house.put(library, id, text(dice))
        await house.is_complete(library)


async def test_an_index_that_cannot_apply_a_change_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keyword_house(tmp_path) as house:
        library, other = await house.library(), await house.library("other")
        await house.put(library, "a", "apple")
        await house.put(other, "b", "apple")
        for one in (library, other):
            await house.is_complete(one)
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise ValueError("no more room")

            patch.setattr("headwater.search.keyword.KeywordIndex._put", fail)
            position = await house.put(library, "c", "apple pie")
            await house.views.caught_up(other.id, position)
        states = {status.library_id: status.state for status in house.views.status()}
        assert states == {library.id: "failed", other.id: "ready"}
        assert set(await house.found(library, "apple")) == {"apple", "apple pie"}
        await house.is_complete(library)


async def test_a_log_trimmed_past_the_files_costs_a_rebuild(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put(library, "a", "apple")
        await house.is_complete(library)
    async with keyword_house(tmp_path, keeps=False) as house:
        for number in range(30):
            await house.put(library, f"d{number}", "pear")
        await house.store.write(DeleteDocument(library.number, "a"))
        await house.store.write(TrimLog(before_us=0, keep=2, limit=1_000))
    async with keyword_house(tmp_path) as house:
        await house.is_complete(library)
        (status,) = house.views.status()
        assert "no longer reaches back" in (status.reason or "")
