"""A type of job that does nothing, declared to the measured server as a package would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from headwater.jobs import JobContext
from headwater.model import Library

_INFO = "Metadata-Version: 2.1\nName: headwater-bench-jobs\nVersion: 1\n"


class Nothing:
    type = "nothing"
    heavy = False
    needs_library = False

    async def check(self, params: dict[str, Any], library: Library | None) -> dict[str, Any]:
        return params

    async def run(self, context: JobContext) -> dict[str, Any]:
        return {}


def declare(folder: Path) -> None:
    """Make servers that are started from here on know the type."""
    info = folder / "headwater_bench_jobs-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(_INFO)
    (info / "entry_points.txt").write_text("[headwater.jobs]\nnothing = bench.nothing:Nothing\n")
    root = Path(__file__).parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(root)])
