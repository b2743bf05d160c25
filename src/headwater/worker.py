"""A worker process: runs jobs beside the servers of a data folder and serves nobody.

`headwater worker` calls `work`. It has the parts of a server without its sockets, keeps no index
files and does no upkeep; on SIGTERM or SIGINT it gives back the jobs that run, and ends.
"""

from __future__ import annotations

import signal

import anyio
import structlog

from headwater.app import Parts
from headwater.clock import SystemClock
from headwater.server import configure_logs
from headwater.settings import Settings


def work(settings: Settings) -> None:
    """Run jobs until told to stop. Raises `Refused` when the data folder cannot be used."""
    configure_logs(settings.log_level)
    anyio.run(_work, settings, backend_options={"use_uvloop": True})


async def _work(settings: Settings) -> None:
    log = structlog.get_logger(__name__)
    parts = Parts(settings, SystemClock(), role="worker")
    # From here on a signal is not missed: it waits to be received.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with parts.running():
            log.info(
                "worker.running",
                process=parts.name,
                data=str(settings.data.resolve()),
                size=settings.jobs.size,
                types=settings.jobs.types,
            )
            async for number in signals:
                log.info("worker.stopping", signal=number.name)
                break
