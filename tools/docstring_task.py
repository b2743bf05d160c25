"""The retrieval task of the model card: find a docstring by its first paragraph.

For the scripts beside this file. Built from whatever Python source is on the machine, so that
nothing has to be downloaded; the same source gives the same task.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float32]
Pairs = list[tuple[str, str]]

SKIPPED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}


def docstrings(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        if SKIPPED & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield inspect.cleandoc(ast.get_docstring(node) or "")


def pairs(root: Path) -> Pairs:
    """(first paragraph, the rest) of each docstring that has both; no two the same."""
    found: dict[str, str] = {}
    for text in docstrings(root):
        first, _, rest = (re.sub(r"\n\s*\n", "\0", text, count=1)).partition("\0")
        query, answer = " ".join(first.split()), rest.strip()[:2000]
        if 20 <= len(query) <= 300 and len(answer) >= 60 and answer not in found.values():
            found.setdefault(query, answer)
    return list(found.items())


def quality(queries: Table, answers: Table) -> tuple[float, float, float]:
    """R@1, R@10 and MRR of finding answer i for query i among all answers; a tie is a miss.

    Raises ValueError when a score is no number: it would compare as nothing and rank first.
    """
    scores = queries @ answers.T
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number; the table is broken")
    rank = (scores >= np.diagonal(scores)[:, None]).sum(axis=1) - 1
    return float((rank < 1).mean()), float((rank < 10).mean()), float((1 / (rank + 1)).mean())
