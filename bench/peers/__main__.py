"""`python -m bench.peers`: set up, run one contender after another, write table and plot."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import machine
from bench.peers import chroma, data, environment, headwater, plot, table
from bench.peers.outcome import Outcome

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"
DISK = Path("/var/tmp")  # where the system has it, on a disk: /tmp is often memory
PEERS = ("chroma", "pgvector", "lance")


def main() -> int:
    options = _options()
    where = options.data or (DISK if DISK.is_dir() else Path(tempfile.gettempdir()))
    bins = {name: environment.prepared(name) for name in options.peers}
    with tempfile.TemporaryDirectory(prefix="headwater-peers-", dir=where) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root, and must reach its own folder
        facts = machine.describe(folder)
        print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
        prepared = data.prepare(folder / "vectors", options.documents)
        outcomes: list[Outcome] = []
        goal = 0.0
        for name in ("headwater", *options.peers):
            started = time.perf_counter()
            print(f"\n{name}", flush=True)
            load = {"connections": options.connections, "seconds": options.seconds}
            if name == "headwater":
                found = headwater.measure(folder, prepared, **load)
                goal = found[0].recall
            elif name == "chroma":
                found = [chroma.measure(bins[name], folder, prepared, goal=goal, **load)]
            else:
                found = [_elsewhere(name, bins[name], folder, goal, options)]
            for outcome in found:
                print(f"  {outcome.encode()}", flush=True)
            print(f"  took {time.perf_counter() - started:.0f} s", flush=True)
            outcomes += found
    print(f"\n{table.plain(outcomes)}")
    if not options.dry:
        table.write(RESULTS, facts, outcomes, connections=options.connections)
        (RESULTS / "peers.svg").write_text(plot.svg(outcomes))
        print(f"\nwritten to {RESULTS}")
    return 0


def _elsewhere(
    name: str, bin: Path, folder: Path, goal: float, options: argparse.Namespace
) -> Outcome:
    """Run a contender's module in its own environment."""
    arguments = [folder / "vectors", folder / name, goal, options.connections, options.seconds]
    process = subprocess.Popen(
        [bin / "python", "-m", f"bench.peers.{name}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if last:
            print(last, flush=True)
        last = line.rstrip("\n")
    if process.wait():
        raise RuntimeError(f"{name} ended with {process.returncode}")
    return Outcome.decode(last)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("peers", nargs="*", default=PEERS, help=", ".join(PEERS))
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=8, help="that search at once")
    parser.add_argument("--seconds", type=float, default=15, help="of each search load")
    parser.add_argument("--data", type=Path, help="put everybody's data below this folder")
    parser.add_argument("--dry", action="store_true", help=f"write nothing to {RESULTS.name}/")
    options = parser.parse_args()
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
