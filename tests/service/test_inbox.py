"""Which files an import may read, and which not, however they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headwater.errors import FileMissing, HeadwaterError, PathNotAllowed, UnreadableFile
from headwater.service.inbox import Inbox, identity_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.ndjson").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


def test_file_of_the_folder_is_opened(folder: Path) -> None:
    with Inbox(folder).open("deep/a.ndjson") as file:
        assert file.read() == b"inside"


@pytest.mark.parametrize(
    "path", ["../secret", "deep/../../secret", "/etc/passwd", "", ".", "a\0b", "x/" * 3_000]
)
def test_path_that_leads_out_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(PathNotAllowed):
        Inbox(folder).open(path)


def test_links_are_not_followed_at_any_place_of_the_path(folder: Path) -> None:
    (folder / "file").symlink_to(folder.parent / "secret")
    (folder / "out").symlink_to(folder.parent)
    (folder / "own").symlink_to(folder / "deep")
    for path in ("file", "out/secret", "own/a.ndjson"):
        with pytest.raises(PathNotAllowed):
            Inbox(folder).open(path)


@pytest.mark.parametrize("path", ["none.ndjson", "none/a.ndjson", "deep/a.ndjson/b"])
def test_missing_file_is_named(folder: Path, path: str) -> None:
    with pytest.raises(FileMissing, match=path.replace(".", "[.]")):
        Inbox(folder).open(path)


def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for path in ("pipe", "deep"):
        with pytest.raises(UnreadableFile):
            Inbox(folder).open(path)


def test_without_a_folder_no_path_is_taken() -> None:
    with pytest.raises(PathNotAllowed, match=r"transfer\.import_folder"):
        Inbox(None).open("a.ndjson")


def test_the_operator_may_make_the_folder_itself_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    with Inbox(link).open("deep/a.ndjson") as file:
        assert file.read() == b"inside"


def test_file_that_was_replaced_is_another(folder: Path) -> None:
    inbox = Inbox(folder)
    with inbox.open("deep/a.ndjson") as file:
        before = identity_of(file)
        assert identity_of(file) == before
    (folder / "deep" / "b").write_bytes(b"inside")
    (folder / "deep" / "b").replace(folder / "deep" / "a.ndjson")
    with inbox.open("deep/a.ndjson") as file:
        assert identity_of(file) != before


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("deep/a.ndjson", "deep", "none/a", "../x"):
        try:
            Inbox(folder).open(path).close()
        except HeadwaterError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before
