"""What the figures were measured on: machine, versions, and what a sync to disk costs."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import faiss
import numpy
import psutil

from headwater import __version__


def describe(folder: Path) -> dict[str, Any]:
    """`folder` is where the servers' data go."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "file_system": _file_system(folder),
        "sync_ms": _sync_ms(folder),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "headwater": __version__,
        "sqlite": sqlite3.sqlite_version,
        "faiss": faiss.__version__,
        "numpy": numpy.__version__,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    place = folder.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[path] for path in (place, *place.parents) if path in mounts), "unknown")


def _sync_ms(folder: Path) -> float:
    """The median time to append a page to a file and sync it."""
    took = []
    path = folder / "sync"
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"\0" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    path.unlink()
    return round(statistics.median(took) * 1000, 3)
