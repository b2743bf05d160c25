"""`headwater settings`: every setting, as it stands now.

Reads the fields of the model, so that a setting cannot be missing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from headwater.cli import options, output

if TYPE_CHECKING:
    from pydantic import BaseModel

Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting. Durations are seconds, paths are text."""

    variable: str
    value: Plain
    default: Plain
    description: str


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON array.")] = False,
) -> None:
    """Show every setting: variable, value, default, and what it is for."""
    found = list(entries(options.load()))
    if as_json:
        output.line(msgspec.json.encode(found).decode())
        return
    table = output.table("variable", "value", "default", "description", right=("value", "default"))
    table.columns[0].no_wrap = True
    for entry in found:
        changed = entry.value != entry.default
        table.add_row(
            entry.variable,
            Text(_shown(entry.value), style="bold yellow" if changed else ""),
            Text(_shown(entry.default), style="dim"),
            entry.description,
        )
    output.out.print(table)


def entries(model: BaseModel, prefix: str = "HEADWATER_") -> Iterator[Entry]:
    """The settings of `model` and its sections, in order."""
    from pydantic import BaseModel

    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        variable = prefix + name.upper()
        if isinstance(value, BaseModel):
            yield from entries(value, f"{variable}__")
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            yield Entry(variable, _plain(value), _plain(default), field.description or "")


def _plain(value: Any) -> Plain:
    match value:
        case timedelta():
            seconds = value.total_seconds()
            return int(seconds) if seconds.is_integer() else seconds
        case Path():
            return str(value)
        case str() | int() | float() | None:
            return value
    return str(value)


def _shown(value: Plain) -> str:
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)
