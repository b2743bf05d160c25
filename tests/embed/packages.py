"""Stand-ins for packages that are installed as extras."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """A module `name` with nothing but these members, for as long as the test runs."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
