"""From flags and environment to `Settings`, for the commands that open a data folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.cli.client import BadInput

if TYPE_CHECKING:
    from headwater.settings import Settings


def load(**flags: Any) -> Settings:
    """`Settings` from `HEADWATER_…` with the flags that are not None on top.

    A flag of a section is named `section__field`. Raises `BadInput` naming each wrong setting.
    """
    from pydantic import ValidationError

    from headwater.settings import Settings

    given: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None:
            continue
        section, _, field = name.rpartition("__")
        if section:
            given.setdefault(section, {})[field] = value
        else:
            given[field] = value
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = [
            f"HEADWATER_{'__'.join(str(part) for part in entry['loc']).upper()}: {entry['msg']}"
            for entry in error.errors()
        ]
        raise BadInput("wrong settings: " + "; ".join(wrong)) from error
