"""Who keeps a data folder, and who is alive on it. Each `DataFolder` here stands for a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.errors import Refused
from headwater.store import DataFolder


def test_one_keeper_at_a_time_and_another_after_it(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path), DataFolder(tmp_path)
    assert first.claim()
    assert first.claim(), "claiming again changes nothing"
    assert not second.claim()
    assert not second.keeps
    first.release()
    assert second.claim()
    second.release()


def test_a_process_is_alive_until_it_lets_go(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path), DataFolder(tmp_path)
    first.enter("one")
    second.enter("two")
    assert first.alive() == second.alive() == {"one", "two"}
    first.release()
    assert second.alive() == {"two"}
    assert {mark.name for mark in (tmp_path / "processes").iterdir()} == {"two"}
    second.release()


def test_a_folder_that_cannot_be_made_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Refused, match="--data"):
        DataFolder(tmp_path / "file" / "data")
