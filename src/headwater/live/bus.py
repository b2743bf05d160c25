"""A way for the processes of one data folder to tell each other what nobody needs to keep.

Cursors and selections of people in a session: no log, no sync, no promise. Each process has a
datagram socket beside the marks of `processes/`; a datagram that finds no room or no receiver is
dropped and counted. It must never carry anything that somebody relies on.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

LONGEST_PATH = 100
"""Bytes of a socket's path that every system takes (`sun_path`, unix(7): 108, or 104)."""
LARGEST_BYTES = 48 << 10
"""A datagram; Linux takes about 200 KiB, other systems what the buffers below allow."""
_BUFFER_BYTES = 1 << 20
_PREFIX = "headwater-"
_IN_A_ROW = 64
"""Datagrams before others get a turn of the loop."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BusFigures:
    """Datagrams of this process since it started."""

    sent: int = 0
    received: int = 0
    dropped: int = 0


class Bus:
    """The end of the process `name` in `folder`. Loop only."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.figures = BusFigures()
        self._folder = folder
        self._hear: Callable[[bytes], None] = _ignore
        self._socket: socket.socket | None = None
        self._addresses: dict[str, str] = {}

    def on_datagram(self, hear: Callable[[bytes], None]) -> None:
        """Call `hear` with each datagram; it must be quick and must not raise."""
        self._hear = hear

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive until cancelled, then take the socket away.

        A folder that can hold no socket is no reason to stop: then this process hears nothing.
        """
        try:
            self._socket = end = self._open()
        except OSError as error:
            log.warning("bus.none", path=str(self._folder / self.name), error=str(error))
            task_status.started()
            return
        try:
            task_status.started()
            while True:
                await anyio.wait_readable(end)
                self._drain(end)
                await anyio.lowlevel.checkpoint()
        finally:
            self._socket = None
            end.close()
            _remove(self._folder / self.name)

    def send(self, name: str, datagram: bytes) -> bool:
        """Hand `datagram` to that process, if it takes it now. Never waits, never raises."""
        sent = False
        if self._socket is not None and len(datagram) <= LARGEST_BYTES:
            try:
                address = self._addresses.get(name) or self._address(name)
                sent = self._socket.sendto(datagram, address) == len(datagram)
            except OSError as error:  # it is full, gone, or not there yet
                log.debug("bus.dropped", to=name, error=str(error))
                if not isinstance(error, BlockingIOError):
                    self._addresses.pop(name, None)
        if sent:
            self.figures.sent += 1
        else:
            self.figures.dropped += 1
        return sent

    def sweep(self, alive: Callable[[], Collection[str]]) -> None:
        """Remove what processes left that are not `alive`, which is asked after looking here."""
        ends = list(self._folder.iterdir()) if self._folder.exists() else []
        living = alive()
        for end in ends:
            if end.name not in living:
                _remove(end)

    def _open(self) -> socket.socket:
        """Bound in the folder; where that path is too long, behind a link from there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        own = self._folder / self.name
        _remove(own)
        if len(os.fsencode(own)) <= LONGEST_PATH:
            return _bound(own)
        place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_short_folder())) / "bus"
        own.symlink_to(place)
        return _bound(place)

    def _address(self, name: str) -> str:
        end = self._folder / name
        address = os.readlink(end) if end.is_symlink() else str(end)
        if len(self._addresses) > 1_000:  # of processes that are long gone
            self._addresses.clear()
        self._addresses[name] = address
        return address

    def _drain(self, end: socket.socket) -> None:
        for _ in range(_IN_A_ROW):
            try:
                datagram = end.recv(LARGEST_BYTES + 1)
            except OSError:  # nothing more, for now
                return
            self.figures.received += 1
            self._hear(datagram)


def _bound(place: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        end.bind(str(place))
        place.chmod(0o600)
    except BaseException:
        end.close()
        raise
    return end


def _ignore(_: bytes) -> None:
    """Until somebody wants to hear."""


def _short_folder() -> str:
    """The system's folder for temporary files, unless that is a long one, too."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) < LONGEST_PATH // 2 else "/tmp"


def _remove(end: Path) -> None:
    try:
        if end.is_symlink():
            place = Path(os.readlink(end)).parent
            if place.name.startswith(_PREFIX):
                shutil.rmtree(place, ignore_errors=True)
        end.unlink(missing_ok=True)
    except OSError as error:
        log.warning("bus.not_removed", path=str(end), error=str(error))
