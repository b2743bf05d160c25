"""What is marked in a passage, and which piece of it is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.search.highlight import highlight
from headwater.search.language import LANGUAGES, words
from headwater.search.wording import clauses


def marked(text: str, query: str, language: str = "en") -> list[str]:
    return [text[mark.start : mark.end] for mark in highlight(text, query, language).marks]


@pytest.mark.parametrize(
    ("text", "query", "found"),
    [
        ("The runner was running late", "run", ["running"]),
        ("The red, red wine", "RED -wine", ["red", "red"]),
        ("red wine, wine red", '"red wine"', ["red", "wine"]),
        ("don't do it, don", "don't", ["don", "t"]),
        ("Größe 😀 größe", "größe", ["Größe", "größe"]),
        ("日本語 text", "日本語", ["日本語"]),
        ("a +plus b", "+plus", ["plus"]),
        ("olé, un cafe\u0301 ole\u0301!", "café olé", ["olé", "cafe\u0301", "ole\u0301"]),
        ("une a\u0301\u0323\u0489b cafe\u0301", "CAFÉ", ["cafe\u0301"]),
        (
            "\u1112\u1161\u11ab\u1100\u1173\u11af 한글",
            "한글",
            ["\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"],
        ),
        ("nothing here", "else", []),
        ("", "else", []),
    ],
)
def test_the_words_found_are_marked_in_characters(text: str, query: str, found: list[str]) -> None:
    assert marked(text, query) == found


def test_the_snippet_holds_the_most_different_words() -> None:
    filler = "lorem ipsum dolor " * 30
    text = f"{filler}apple apple apple {filler}apple and pear {filler}"
    _, snippet = highlight(text, "apple pear", "none", snippet_chars=80)
    shown = text[snippet.start : snippet.end]
    assert "apple and pear" in shown
    assert len(shown) <= 80
    assert not shown.startswith(("orem", "psum"))
    assert highlight("short", "x", "none").snippet == (0, 5)
    without = highlight(filler, "x", "none", snippet_chars=50).snippet
    assert without.start == 0
    assert filler[without.end] == " "


@given(
    st.text("aeé è-ǘßñ😀각ᄀᆨ̣́", max_size=40),
    st.text("aeé è-ǘñ각", max_size=10),
    st.sampled_from(["none", "fr"]),
)
def test_the_same_words_are_marked_composed_and_decomposed(
    text: str, query: str, language: str
) -> None:
    apart = unicodedata.normalize("NFD", text)
    together = unicodedata.normalize("NFC", text)
    found = [unicodedata.normalize("NFC", word) for word in marked(apart, query, language)]
    assert found == marked(together, query, language)


@given(st.text(), st.text(max_size=60), st.sampled_from(LANGUAGES), st.integers(1, 50))
def test_any_text_and_query_give_marks_within_the_text(
    text: str, query: str, language: str, chars: int
) -> None:
    text = text.encode("utf-8", "replace").decode()
    found = highlight(text, query, language, snippet_chars=chars)
    at = 0
    for mark in found.marks:
        assert at <= mark.start < mark.end <= len(text)
        at = mark.end
    assert 0 <= found.snippet.start <= found.snippet.end <= len(text)


@given(st.text())
def test_any_text_is_a_list_of_clauses(query: str) -> None:
    for clause in clauses(query, "en"):
        assert clause.words
        assert clause.sign in ("", "+", "-")
        places = [word.position for word in clause.words]
        assert places == sorted(set(places))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_a_stemmer(language: str) -> None:
    assert words("one two", language)
