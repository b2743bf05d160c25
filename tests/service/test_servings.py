"""Room for what live queries tell: never more than allowed, and nobody waits for ever."""

from __future__ import annotations

import random

import msgspec

from headwater.service.deltas import LiveEvent
from headwater.service.servings import SMALL_BYTES, Serving, Servings

LIMIT = 4 * SMALL_BYTES


def events(size: int) -> list[LiveEvent]:
    return [LiveEvent("enter", msgspec.Raw(b"x" * size))]


class Table:
    """Watches that want to be served, and who was called."""

    def __init__(self) -> None:
        self.servings = Servings(group_bytes=LIMIT, sending_bytes=LIMIT)
        self.called: list[str] = []

    def watch(self, name: str) -> Serving:
        return self.servings.serving(lambda: self.called.append(name))


def test_small_groups_always_have_room() -> None:
    table = Table()
    full, small = table.watch("full"), table.watch("small")
    assert full.fits(events(LIMIT))
    assert all(small.fits(events(SMALL_BYTES)) for _ in range(100))
    assert table.servings.held_bytes == LIMIT


def test_those_without_room_are_called_in_order_once_there_is_some() -> None:
    table = Table()
    first, second, third, fourth = map(table.watch, ["first", "second", "third", "fourth"])
    assert first.fits(events(LIMIT - SMALL_BYTES))
    assert not second.fits(events(2 * SMALL_BYTES))
    assert not third.fits(events(LIMIT))
    assert not fourth.fits(events(2 * SMALL_BYTES))
    assert table.called == []
    first.read()
    assert table.called == ["second"], "the third must wait, and the fourth not go before it"
    assert second.fits(events(2 * SMALL_BYTES))
    second.read()
    assert table.called == ["second", "third"]
    third.settle()  # it had nothing to tell after all
    assert table.called == ["second", "third", "fourth"]
    assert fourth.fits(events(3 * SMALL_BYTES)), "it may want more by then, if there is room"
    assert table.servings.held_bytes == 3 * SMALL_BYTES


def test_what_is_larger_than_everything_goes_when_nothing_else_does() -> None:
    table = Table()
    small, huge = table.watch("small"), table.watch("huge")
    assert small.fits(events(2 * SMALL_BYTES))
    assert not huge.fits(events(10 * LIMIT))
    small.read()
    assert table.called == ["huge"]
    assert huge.fits(events(10 * LIMIT))
    assert not small.fits(events(2 * SMALL_BYTES))
    huge.close()
    assert table.called == ["huge", "small"]


def test_whoever_leaves_takes_nothing_along() -> None:
    table = Table()
    holding, waiting, last = map(table.watch, ["holding", "waiting", "last"])
    assert holding.fits(events(LIMIT))
    assert not waiting.fits(events(LIMIT))
    assert not last.fits(events(LIMIT))
    waiting.close()
    holding.close()
    assert table.called == ["last"]
    last.close()
    assert table.servings.held_bytes == 0


def test_whatever_they_do_the_bound_holds_and_all_are_served() -> None:
    chosen = random.Random(11)
    table = Table()
    watches = {str(number): table.watch(str(number)) for number in range(12)}
    wanting: set[str] = set()
    served = 0
    for _ in range(3000):
        name = chosen.choice(list(watches))
        if name not in wanting:
            watches[name].read()
            if chosen.random() < 0.05:
                watches[name].close()
            wanting.add(name)
            called = [name]
        else:
            called = []
        while called:
            name = called.pop()
            if watches[name].fits(events(chosen.randrange(2 * LIMIT))):
                wanting.discard(name)
                served += 1
            watches[name].settle()
            called += table.called
            table.called.clear()
        held = [watch._held_bytes for watch in watches.values()]
        assert sum(held) == table.servings.held_bytes
        assert sum(held) <= max(LIMIT, *held)
        assert not wanting or table.servings.held_bytes, "somebody must be reading"
    assert served > 200
