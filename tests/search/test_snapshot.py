"""Index files when the process dies while it writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headwater.search import snapshot
from headwater.search.index import VectorIndex
from headwater.settings import SearchSettings

SETTINGS = SearchSettings(seal_rows=32, exact_rows=16)

CHILD = """
import sys, threading
from pathlib import Path
import numpy as np
from headwater.search import snapshot
from headwater.search.index import VectorIndex
from headwater.settings import SearchSettings

folder = Path(sys.argv[1])
index = VectorIndex(4, "dot", SearchSettings(seal_rows=32, exact_rows=16))
for turn in (1, 2):
    first = turn * 100
    matrix = np.random.default_rng(turn).normal(size=(50, 4)).astype(np.float32)
    index.append(np.arange(first, first + 50), matrix)
    while plan := index.plan(quiet=True):
        index.swap(plan, index.build(plan, threading.Event()))
    snapshot.save(
        folder, index.capture(), token=str(turn), library_id="a", log_id="b",
        dimension=4, metric="dot", position=turn,
    )
print("survived")
"""


@pytest.mark.parametrize(
    ("failpoint", "position"),
    [("view.before_manifest:2", 1), ("view.after_manifest:2", 2), ("view.before_manifest", None)],
)
def test_killed_while_saving_leaves_the_old_snapshot_or_the_new(
    tmp_path: Path, failpoint: str, position: int | None
) -> None:
    folder = tmp_path / "a"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)],
        env={**os.environ, "HEADWATER_FAILPOINTS": failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert "survived" not in done.stdout
    if position is None:
        with pytest.raises(snapshot.Unusable, match="no manifest"):
            _load(folder)
        return
    index, at = _load(folder)
    assert at == position
    expected = [*range(100, 150), *range(200, 250)][: 50 * position]
    assert index.rows().tolist() == expected
    assert (
        len(index.search(np.ones((1, 4), np.float32), [100], exact=True)[0].rows) == 50 * position
    )


def test_nothing_saved_is_not_an_error_and_other_parameters_are(tmp_path: Path) -> None:
    with pytest.raises(snapshot.Missing):
        _load(tmp_path / "a")
    index = VectorIndex(4, "dot", SETTINGS)
    snapshot.save(
        tmp_path / "a",
        index.capture(),
        token="t",
        library_id="other",
        log_id="b",
        dimension=4,
        metric="dot",
        position=9,
    )
    with pytest.raises(snapshot.Unusable, match="other"):
        _load(tmp_path / "a")


def _load(folder: Path) -> tuple[VectorIndex, int]:
    return snapshot.load(folder, SETTINGS, library_id="a", log_id="b", dimension=4, metric="dot")
