"""Turns to write: who waits is next, and who waits in vain goes on."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

from headwater.store.turns import Turns


def test_who_waits_is_next_however_busy_the_other_is(tmp_path: Path) -> None:
    busy, seldom = (Turns(tmp_path, timedelta(seconds=30)) for _ in range(2))
    had = 0
    over = threading.Event()

    def write_without_a_break() -> None:
        nonlocal had
        while not over.is_set():
            with busy:
                had += 1
                time.sleep(0.002)  # the work of a write

    thread = threading.Thread(target=write_without_a_break)
    thread.start()
    waited = []
    for _ in range(50):
        before = had
        with seldom:
            waited.append(had - before)
    over.set()
    thread.join()
    # Mostly: a thread that is not run for a while cannot ask.
    assert sorted(waited)[len(waited) // 2] <= 2
    for turns in (busy, seldom):
        turns.close()


def test_a_turn_is_one_process_at_a_time(tmp_path: Path) -> None:
    inside = most = 0

    def write() -> None:
        nonlocal inside, most
        turns = Turns(tmp_path, timedelta(seconds=30))
        for _ in range(50):
            with turns:
                inside += 1
                most = max(most, inside)
                inside -= 1
        turns.close()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_who_waits_in_vain_goes_on(tmp_path: Path) -> None:
    """SQLite's own lock then says what is wrong."""
    stuck, other = (Turns(tmp_path, timedelta(milliseconds=20)) for _ in range(2))
    went_on = False
    with stuck, other:
        went_on = True
    assert went_on
    with other:
        pass
    for turns in (stuck, other):
        turns.close()
