"""The model's arithmetic: equal to model2vec's and the tokenizer's, and alike in any batch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from headwater.embed import bag as bag_module
from headwater.embed.bag import MAX_CHARS, Bag
from headwater.embed.pieces import Pieces
from headwater.embed.static import FOLDER

WORDS = (
    *("the", "river", "carries", "small", "boats", "past", "naïve", "Œuvres,", "東京"),
    *("[PAD]", "[UNK]", "snake_case()", "x1y2"),
)
LEGAL = st.characters(exclude_categories=["Cs"])
PROSE = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


@cache
def load_model() -> Bag:
    return Bag.load(FOLDER)


@cache
def load_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture
def model() -> Bag:
    return load_model()


@pytest.fixture
def tokenizer() -> Tokenizer:
    return load_tokenizer()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PROSE, st.text(LEGAL, max_size=80)), max_size=5))
@example(
    ["a\x00b\x1cc\x85d\u2028e", "e\u0301 !\u0301 ΣΑΣ İ ß", "x" * 101 + " y", "[UNK][PAD]##ing"]
)
def test_pieces_are_those_of_the_tokenizer(texts: list[str]) -> None:
    tokenizer = load_tokenizer()
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert Pieces(tokenizer).of(texts) == expected


def test_vectors_equal_those_of_model2vec(model: Bag) -> None:
    from model2vec import StaticModel

    generator = np.random.default_rng(7)
    texts = [" ".join(generator.choice(WORDS, size)) for size in range(0, 300, 3)]
    texts += ["", "   ", "naïve café", "ALL CAPS", "\U0001f600", "word " * 900]
    expected = StaticModel.from_pretrained(FOLDER).encode(texts)
    np.testing.assert_allclose(model.embed(texts), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(PROSE, min_size=1, max_size=30), st.integers(1, 29))
def test_a_vector_does_not_depend_on_its_batch(texts: list[str], cut: int) -> None:
    model = load_model()
    together = model.embed(texts)
    np.testing.assert_array_equal(
        together, np.concatenate([model.embed(texts[:cut]), model.embed(texts[cut:])])
    )
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(model.embed([text])[0], vector)


def test_vectors_are_float32_of_unit_length_or_zero(model: Bag) -> None:
    texts = [
        "a boat",
        "",
        " \n\t ",
        "\U000e0001",
        "x" * 500,
        "half \ud800 a pair",
        "boat " * 50_000,
    ]
    vectors = model.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (7, 256)
    assert vectors.flags.c_contiguous
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(norms, [1, 0, 0, 0, 0, 1, 1], atol=1e-6)


def test_no_texts_give_no_vectors(model: Bag) -> None:
    assert model.embed([]).shape == (0, 256)


def test_text_beyond_the_limit_is_not_read(model: Bag) -> None:
    start = ("boat " * MAX_CHARS)[:MAX_CHARS]
    np.testing.assert_array_equal(model.embed([start + " unrelated"]), model.embed([start]))


def test_blocks_bound_texts_and_characters() -> None:
    texts = ["a" * 20_000, "b" * 20_000, *["c"] * 3000, "d" * 99_000]
    blocks = list(bag_module._blocks(texts))
    assert [text[:MAX_CHARS] for text in texts] == [text for block in blocks for text in block]
    assert all(len(block) <= 1024 for block in blocks)
    assert all(sum(map(len, block)) <= MAX_CHARS for block in blocks)


def test_forgetting_words_changes_no_result(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.embed.pieces._KNOWN_WORDS", 8)
    pieces = Pieces(tokenizer)
    whole_words = len(pieces._known)
    for start in range(0, 60, 3):
        texts = [f"boat number{start} and boat{start + 1}", "the river", f"x{start}" * 40]
        assert pieces.of(texts) == [e.ids for e in tokenizer.encode_batch(texts)]
        assert len(pieces._known) <= whole_words + 5


def test_texts_of_strange_words_give_the_same_pieces(tokenizer: Tokenizer) -> None:
    generator = np.random.default_rng(5)
    texts = [" ".join(map(str, generator.integers(1 << 40, size=12))) for _ in range(50)]
    pieces = Pieces(tokenizer)
    known = dict(pieces._known)
    assert pieces.of(texts) == [e.ids for e in tokenizer.encode_batch(texts)]
    assert pieces._known == known


def test_words_that_are_one_piece_are_known_from_the_start(tokenizer: Tokenizer) -> None:
    known = Pieces(tokenizer)._known
    assert {"river", "boat", "2019"} <= set(known)
    words = list(known)
    encoded = tokenizer.encode_batch(words, add_special_tokens=False)
    assert [known[word] for word in words] == [tuple(each.ids) for each in encoded]


def test_threads_may_share_a_model(model: Bag) -> None:
    generator = np.random.default_rng(3)
    batches = [
        [
            f"{generator.integers(1_000_000)} {' '.join(generator.choice(WORDS, 12))}"
            for _ in range(50)
        ]
        for _ in range(40)
    ]
    results: dict[int, np.ndarray] = {}

    def work(first: int) -> None:
        for index in range(first, len(batches), 4):
            results[index] = shared.embed(batches[index])

    shared = Bag.load(FOLDER)
    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, batch in enumerate(batches):
        np.testing.assert_array_equal(results[index], model.embed(batch))


def test_meaning_shows_in_the_scores(model: Bag) -> None:
    triples = [
        ("open a file for reading", "read the contents of a document", "boil potatoes in water"),
        ("the cat sat on the mat", "a kitten rests on a rug", "interest rates rise again"),
        ("how to cook pasta", "boiling spaghetti recipe", "repair a bicycle tyre"),
        ("send an email message", "deliver mail to a recipient", "prime number theorem"),
        ("heavy rain is expected", "the weather forecast says storms", "compile the source code"),
    ]
    for text, near, far in triples:
        vectors = model.embed([text, near, far])
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1, text


def test_loading_reaches_for_no_network_library() -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from headwater.embed.static import FOLDER\n"
        "from headwater.embed.bag import Bag\n"
        "Bag.load(FOLDER).embed(['a boat'])\n"
        "heavy = {'huggingface_hub', 'model2vec', 'torch', 'joblib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    source = Path(bag_module.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**environment, "PYTHONPATH": str(source)}
    )
