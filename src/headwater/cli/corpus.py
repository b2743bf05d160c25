"""Real text that is on every machine: the docstrings of the Python standard library.

`headwater demo` and the benchmarks read it. Sources are parsed, never imported: importing some of
these modules opens windows, prints or starts things.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_SKIPPED = frozenset(
    {
        "__pycache__",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
_LONGEST_SIGNATURE = 200

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(root: Path | None = None) -> Iterator[dict[str, Any]]:
    """Each docstring below `root` (the standard library) as a document to be sent to a server.

    Modules in order of name, and within one in order of the source: the same every time. Ids are
    unique; a name that is defined again, as under an `if`, gets `:2` behind it, and a docstring
    that an earlier definition of the module has too is left out.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED.isdisjoint(parts):
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield from _module(path, module)


def _module(path: Path, module: str) -> Iterator[dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bad escapes in old code are not ours to report
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # templates and files for other versions live there too
    if not module:
        return
    times: dict[str, int] = {}
    seen: set[str] = set()
    for kind, name, node in _definitions(tree, module):
        docstring = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
        if not docstring or docstring in seen:
            continue
        seen.add(docstring)
        times[name] = times.get(name, 0) + 1
        signature = _signature(node)
        line = 1 if isinstance(node, ast.Module) else node.lineno
        yield {
            "id": name if times[name] == 1 else f"{name}:{times[name]}",
            "title": name,
            "text": f"{signature}\n\n{docstring}" if signature else docstring,
            "document_type": kind,
            "tags": [module.partition(".")[0]],
            "metadata": {"module": module, "line": line},
        }


def _definitions(
    tree: ast.Module, module: str
) -> Iterator[tuple[str, str, ast.Module | ast.ClassDef | _Function]]:
    yield "module", module, tree
    yield from _inside(tree.body, module, "function")


def _inside(
    body: Iterable[ast.AST], prefix: str, function: str
) -> Iterator[tuple[str, str, ast.ClassDef | _Function]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield "class", f"{prefix}.{node.name}", node
            yield from _inside(node.body, f"{prefix}.{node.name}", "method")
        elif isinstance(node, _Function):
            yield function, f"{prefix}.{node.name}", node
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _inside(ast.iter_child_nodes(node), prefix, function)


def _signature(node: ast.Module | ast.ClassDef | _Function) -> str:
    if not isinstance(node, _Function):
        return ""
    signature = f"{node.name}({ast.unparse(node.args)})"
    return signature if len(signature) <= _LONGEST_SIGNATURE else f"{node.name}(…)"
