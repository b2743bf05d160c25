"""Named places where a test makes the process die.

Production pays one set lookup per place. A child process started with
`HEADWATER_FAILPOINTS=name[:nth][@file]` kills itself with SIGKILL the nth time the place is reached
(default: first), counted from when `file` is there: so a test says when the moment has come.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

NAMES = frozenset(
    {
        "store.before_commit",  # rows written, transaction open
        "store.after_commit",  # durable, nobody told
        "changes.after_publish",  # in the ring, bell rung
        "embedding.before_write",  # pending documents embedded, not yet written
        "alerts.before_write",  # documents matched with alerts, nothing written
        "alerts.after_write",  # matches written, their place saved with them
        "import.before_group",  # a group of an import is ready, not yet committed
        "import.after_group",  # committed, with the place the import has reached
        "import.before_end",  # all groups committed, the batch not yet ended
        "delete.after_piece",  # some documents of a batch delete are gone
        "export.before_finish",  # every document written, the file not yet whole
        "regenerate.after_page",  # some vectors of a next generation are kept
        "regenerate.before_switch",  # all are, and not yet valid
        "regenerate.mid_settle",  # they are valid, and some moved to their place
        "rebuild.asked",  # everybody was asked to make views anew, nobody has
        "ingest.before_result",  # committed, result line not yet sent
        "ingest.before_summary",  # all committed, summary not yet sent
        "view.before_manifest",  # segment files written, manifest not
        "view.after_manifest",  # manifest renamed, old files not yet removed
        "keyword.before_commit",  # changes applied to a keyword index, not committed
        "keyword.after_commit",  # committed, its mark still the one before
        "library.mid_sweep",  # a deleted library is partly swept
    }
)

_countdown: dict[str, int] = {}
_gates: dict[str, Path] = {}
"""Places that are open only while a file is there."""


def arm(spec: str) -> None:
    """Arm places from `name[:nth][@file],…`. Raises ValueError on an unknown name."""
    for part in filter(None, (piece.strip() for piece in spec.split(","))):
        place, _, gate = part.partition("@")
        name, _, nth = place.partition(":")
        if name not in NAMES:
            raise ValueError(f"unknown failpoint {name!r}; known: {', '.join(sorted(NAMES))}")
        _countdown[name] = int(nth or 1)
        if gate:
            _gates[name] = Path(gate)


def reach(name: str) -> None:
    """Say that execution is at `name`; an armed place does not return."""
    if not _countdown or name not in _countdown:
        return
    if name in _gates and not _gates[name].exists():
        return
    _countdown[name] -= 1
    if _countdown[name] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("HEADWATER_FAILPOINTS", ""))
