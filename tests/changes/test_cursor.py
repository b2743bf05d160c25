"""The cursor: what clients see of a position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import CursorExpired, InvalidCursor
from headwater.model import Cursor

log_ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=6, max_size=16)


@given(log_ids, st.integers(0, (1 << 63) - 1), st.integers(0, 999_999_999))
def test_a_cursor_reads_back_as_it_was(log_id: str, position: int, part: int) -> None:
    cursor = Cursor(log_id, position, part)
    assert Cursor.parse(str(cursor), log_id=log_id) == cursor
    assert str(cursor).replace(".", "").isalnum()  # safe in a URL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "beginning",
        "now",
        "k3f9q2",
        "k3f9q2.",
        ".5",
        "k3f9q2.-1",
        "k3f9q2.+1",
        "k3f9q2.1_0",
        "k3f9q2.1.",
        "k3f9q2.1.2.3",
        "k3f9q2. 1",
        "K3F9Q2.1",
        "short.1",
        "k3f9q2.1\n",
        "k3f9q2.9223372036854775808",
        "k3f9q2.99999999999999999999",
        "k3f9q2.1.1234567890",
        "k3f9q2.٣",
        "x" * 10_000,
    ],
)
def test_what_is_no_cursor_is_said_so(text: str) -> None:
    with pytest.raises(InvalidCursor) as caught:
        Cursor.parse(text, log_id="k3f9q2")
    assert len(caught.value.detail) < 300


def test_a_cursor_of_another_log_is_recognised() -> None:
    with pytest.raises(CursorExpired) as caught:
        Cursor.parse("aaaaaa.5", log_id="k3f9q2")
    assert caught.value.fields["reason"] == "other_log"
