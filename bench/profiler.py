"""Where the server spends its time while a figure is measured: py-spy, when it is installed.

An aid for whoever makes a figure better; it slows the server a little, so a profiled figure is
not one to publish.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RATE = 200
_STARTS = ("Runner.run (", "Thread.run (", "Lane._main (", "Lane._do (")
_PLACE = re.compile(r"^(?P<name>.*) \((?:.*/)?(?P<file>[^/:]+/[^/:]+|[^/:]+):(?P<line>\d+)\)$")


@contextmanager
def recorded(pid: int, path: Path, *, gil: bool) -> Iterator[None]:
    """Record the process while the body runs; then print its hottest functions.

    With `gil` only who holds the interpreter lock counts: what the other threads wait for.
    """
    beside = Path(sys.executable).with_name("py-spy")
    tool = str(beside) if beside.exists() else shutil.which("py-spy")
    if tool is None:
        print("py-spy is not installed; nothing is profiled", file=sys.stderr)
        yield
        return
    command = [tool, "record", "--pid", str(pid), "--rate", str(_RATE), "--threads"]
    command += ["--nonblocking", "--format", "raw", "--output", str(path), "--duration", "600"]
    if gil:
        command.append("--gil")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            yield
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
    if path.exists() and path.stat().st_size:
        print(hottest(path.read_text()))
        print(f"stacks (collapsed, for speedscope or flamegraph.pl): {path}\n")
    else:
        print(f"py-spy recorded nothing: {said.decode()[-400:]}", file=sys.stderr)


def hottest(stacks: str, most: int = 20) -> str:
    """Per thread: its share of the samples, and its functions by own and by whole time."""
    threads: dict[str, Counter[str]] = {}
    wholes: dict[str, Counter[str]] = {}
    total = 0
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        thread = re.sub(r"thread \(0x[0-9A-F]+\): ?", "", frames[0])
        count = int(samples)
        total += count
        places = [_short(frame) for frame in _below_start(frames[1:])]
        if places:
            threads.setdefault(thread, Counter())[places[-1]] += count
            for place in set(places):
                wholes.setdefault(thread, Counter())[place] += count
    shown = []
    for thread, own in sorted(threads.items(), key=lambda item: -item[1].total()):
        here = own.total()
        if here < 0.01 * total:
            continue
        shown.append(f"{thread}: {100 * here / total:.0f}% of the samples, of which")
        whole = Counter({p: n for p, n in wholes[thread].items() if n < 0.97 * here})
        for kind, counts in (("own", own), ("whole", whole)):
            shown.append(f"  {kind}")
            shown += [
                f"    {100 * count / here:5.1f}%  {place}"
                for place, count in counts.most_common(most)
                if count > 0.005 * here
            ]
    return "\n".join(shown)


def _below_start(frames: list[str]) -> list[str]:
    """A stack without the interpreter's, the command line's and the thread's own beginnings."""
    start = 0
    for at, frame in enumerate(frames[:-1]):
        if frame.startswith(_STARTS):
            start = at + 1
    return frames[start:]


def _short(frame: str) -> str:
    match = _PLACE.match(frame)
    return f"{match['name']} ({match['file']})" if match else frame
