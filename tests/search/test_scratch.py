"""Folders of one process: gone when it closes them, or after it, however it ended."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from headwater.search.scratch import Scratch, sweep

CHILD = "from headwater.search.scratch import Scratch; print(Scratch().path, flush=True); input()"


def test_a_killed_process_leaves_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    own = Scratch()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        others = Path(child.stdout.readline().strip())
        (others / "index").write_text("much")
        sweep()
        assert own.path.is_dir()
        assert others.is_dir()
        child.kill()
        child.wait()
    sweep()
    assert not others.exists()
    assert own.path.is_dir()
    own.close()
    own.close()
    assert list(tmp_path.iterdir()) == []
