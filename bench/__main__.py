"""`python -m bench [names…]`: measure and print."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    crowd,
    delivery,
    export,
    fanout,
    filtered,
    hybrid,
    imports,
    ingest,
    jobs,
    live,
    machine,
    memory,
    rebuilding,
    report,
    scale,
    search,
    single,
    sockets,
    startup,
)
from bench.figure import Figure
from bench.run import Run

# In this order: search adds documents to the library that the two before it measure.
FIGURES: dict[str, Callable[[Run], list[Figure]]] = {
    "ingest": ingest.measure,
    "startup": startup.measure,
    "export": export.measure,
    "search": search.measure,
    "hybrid": hybrid.measure,
    "filtered": filtered.measure,
    "single": single.measure,
    "delivery": delivery.measure,
    "fanout": fanout.measure,
    "sockets": sockets.measure,
    "crowd": crowd.measure,
    "live": live.measure,
    "jobs": jobs.measure,
    "imports": imports.measure,
    "rebuilding": rebuilding.measure,
    "memory": memory.measure,
    "scale": scale.measure,
}
LONG = {"memory", "scale"}
RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"
DISK = Path("/var/tmp")  # where the system has it, on a disk: /tmp is often memory


def main() -> int:
    options = _options()
    every = [name for name in FIGURES if options.all or name not in LONG]
    names = options.names or every
    where = options.data or (DISK if DISK.is_dir() else Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix="headwater-bench-", dir=where) as folder:
        facts = machine.describe(Path(folder))
        print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
        run = Run(
            Path(folder),
            documents=options.documents,
            lines=options.lines,
            seconds=options.seconds,
            profile=options.profile,
            gil=options.gil,
        )
        figures: list[Figure] = []
        for name in names:
            started = time.perf_counter()
            run.measuring(name)
            found = FIGURES[name](run)
            print(f"\n{name} ({time.perf_counter() - started:.0f} s)")
            for figure in found:
                print(f"  {' | '.join(report.rows([figure])[0])}\n    {report.details(figure)}")
            sys.stdout.flush()
            figures += found
    print(f"\n{report.plain(figures)}")
    if options.write:
        report.write(RESULTS, facts, figures)
        print(f"\nwritten to {RESULTS}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], metavar="NAME", help=_names())
    parser.add_argument("--all", action="store_true", help="also the long ones")
    parser.add_argument("--documents", type=int, default=100_000, help="in the prepared library")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the long figures")
    parser.add_argument("--seconds", type=float, default=15, help="of each timed load")
    parser.add_argument("--data", type=Path, help="put the servers' data below this folder")
    parser.add_argument("--profile", choices=FIGURES, metavar="NAME", help="py-spy this one")
    parser.add_argument("--gil", action="store_true", help="profile only who holds the GIL")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}/results.*")
    return parser.parse_args()


def _names() -> str:
    return ", ".join(f"{name} (long)" if name in LONG else name for name in FIGURES)


if __name__ == "__main__":
    sys.exit(main())
