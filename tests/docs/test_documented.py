"""What a user can set, call, hear or meet is written down somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.main import get_command

from headwater import errors
from headwater.app import create_app
from headwater.cli import app as cli
from headwater.errors import HeadwaterError
from headwater.model import EVENT_TYPES
from headwater.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def docs() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(page.read_text() for page in pages)


def settings(model: type[BaseModel] = Settings, prefix: str = "HEADWATER_") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += settings(kind, f"{prefix}{name.upper()}__")
        else:
            names.append(prefix + name.upper())
    return names


def error_codes() -> list[str]:
    """Those of the tree, and those that only the HTTP layer gives."""
    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HeadwaterError)
    }
    problems = (ROOT / "src/headwater/api/problems.py").read_text()
    codes |= set(re.findall(r'problem\(\s*[\w.]+,\s*"(\w+)"', problems))
    assert "invalid_parameter" in codes
    return sorted(codes)


def branches(kind: type[HeadwaterError]) -> dict[str, str]:
    """The classes below one, each with the one it is below."""
    found = {}
    for child in kind.__subclasses__():
        if child.__module__.startswith("headwater."):
            found[child.__name__] = kind.__name__
            found |= branches(child)
    return found


def routes(tmp_path: Path) -> list[str]:
    described = create_app(Settings(data=tmp_path)).openapi()
    return [
        f"{method.upper()} {path}" for path, item in described["paths"].items() for method in item
    ]


def commands() -> list[str]:
    command = get_command(cli)
    return sorted(getattr(command, "commands", {}))


def test_every_setting_is_documented(docs: str) -> None:
    names = settings()
    assert len(names) > 40
    missing = [name for name in names if not re.search(rf"{name}\b", docs)]
    assert missing == []


def test_every_command_is_documented(docs: str) -> None:
    assert {"serve", "demo", "import", "export", "search", "tail", "doctor"} <= set(commands())
    missing = [name for name in commands() if not re.search(rf"headwater {name}\b", docs)]
    assert missing == []


def test_every_route_is_documented(docs: str, tmp_path: Path) -> None:
    missing = [route for route in routes(tmp_path) if route not in docs]
    assert missing == []


def test_every_event_type_is_documented(docs: str) -> None:
    missing = [kind for kind in EVENT_TYPES if f"`{kind}`" not in docs]
    assert missing == []


def test_every_error_code_is_documented(docs: str) -> None:
    missing = [code for code in error_codes() if f"`{code}`" not in docs]
    assert missing == []


def test_error_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above = [HeadwaterError.__name__]
    for line in (errors.__doc__ or "").splitlines():
        if (found := re.match(r" {4}([ │]*)[├└]── (\w+)", line)) is not None:
            del above[1 + len(found[1]) // 4 :]
            drawn[found[2]] = above[-1]
            above.append(found[2])
    assert drawn == branches(HeadwaterError)


def test_every_thread_is_in_the_table() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text()
    threads = {
        name
        for file in (ROOT / "src" / "headwater").rglob("*.py")
        for name in re.findall(r'\b(?:Pool|Lane)\("([a-z-]+)"', file.read_text())
    }
    assert len(threads) > 15
    # The doctor's is in a process of its own.
    assert [name for name in sorted(threads - {"doctor"}) if f"`{name}`" not in table] == []
