"""Files that imports read: those sent with the job, and those of one allowed folder.

A path from a client is followed one name at a time from the folder's own descriptor, and no link
is taken: so nothing that is changed meanwhile leads out of it (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from headwater.errors import FileMissing, PathNotAllowed, UnreadableFile

_MAX_CHARS = 4_096


class Identity(msgspec.Struct, frozen=True):
    """By which a file is known again: as long as these stay, its content has."""

    device: int
    inode: int
    size: int
    changed_ns: int


class Inbox:
    """Opens files for imports. Blocking: for a thread, but for `parts`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def parts(self, path: str) -> tuple[str, ...]:
        """The names on the way to the file. Raises `PathNotAllowed`."""
        if self._folder is None:
            raise PathNotAllowed(
                "this server reads no files by their path; send the file as the request's body, "
                "or set `transfer.import_folder`",
                path="params.path",
            )
        parts = PurePosixPath(path).parts
        if (
            not parts
            or len(path) > _MAX_CHARS
            or "\0" in path
            or parts[0] == "/"
            or ".." in path.split("/")
        ):
            raise PathNotAllowed(
                f"{path[:80]!r} is no path of a file inside the folder that imports may read; "
                "name it from there, without `..`",
                path="params.path",
            )
        return parts

    def open(self, path: str) -> BinaryIO:
        """The file at `path` in the folder. Raises `PathNotAllowed`, `FileMissing`,
        `UnreadableFile`."""
        parts = self.parts(path)
        assert self._folder is not None
        place = self._at(self._folder, path, None)
        try:
            for number, name in enumerate(parts, 1):
                deeper = self._at(name, path, place, folder=number < len(parts))
                os.close(place)
                place = deeper
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise UnreadableFile(f"{path[:80]!r} is no regular file")
            return os.fdopen(place, "rb", closefd=True)
        except BaseException:
            os.close(place)
            raise

    def _at(
        self, name: str | Path, path: str, folder_fd: int | None, *, folder: bool = True
    ) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECTORY if folder else os.O_NONBLOCK)
        if folder_fd is not None:  # the folder itself is the operator's, and may be a link
            flags |= os.O_NOFOLLOW
        try:
            return os.open(name, flags, dir_fd=folder_fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK) or (
                error.errno == errno.ENOTDIR and self._is_link(name, folder_fd)
            ):
                raise PathNotAllowed(
                    f"{path[:80]!r} goes through a link, which imports do not follow; "
                    "name the file where it is",
                    path="params.path",
                ) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise FileMissing(
                    f"there is no file {path[:80]!r} in the folder that imports may read",
                    path="params.path",
                ) from error
            raise UnreadableFile(
                f"the file {path[:80]!r} cannot be opened: {error.strerror}"
            ) from error

    @staticmethod
    def _is_link(name: str | Path, folder_fd: int | None) -> bool:
        try:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISLNK(found.st_mode)


def identity_of(file: BinaryIO) -> Identity:
    found = os.fstat(file.fileno())
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
