"""A section of the settings, and the shapes that its fields have.

What is given to a shape is said without its unit, which the shape adds: no two sections say it in
different words.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

TICK = timedelta(milliseconds=10)
"""The least time between two turns of what is done over and over."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _seconds(value: object) -> object:
    """A number in text is seconds: the environment has only text, and pydantic refuses "30"."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]


def in_seconds(default: float | timedelta, meaning: str, *, least: timedelta = timedelta(0)) -> Any:
    """A duration."""
    length = default if isinstance(default, timedelta) else timedelta(seconds=default)
    return Field(length, ge=least, description=f"{meaning}, in seconds.")


def every(default: float | timedelta, meaning: str) -> Any:
    """The time between two turns of what is done over and over: never none at all."""
    return in_seconds(default, meaning, least=TICK)


def in_milliseconds(default: int, meaning: str, *, least: int = 1, most: int | None = None) -> Any:
    return Field(default, ge=least, le=most, description=f"{meaning}, in milliseconds.")


def in_bytes(default: int, meaning: str, *, least: int = KiB, most: int | None = None) -> Any:
    return Field(default, ge=least, le=most, description=f"{meaning}, in bytes.")


def count(default: int | None, meaning: str, *, least: int = 1, most: int | None = None) -> Any:
    """`meaning` is the whole sentence: what is counted is its unit."""
    return Field(default, ge=least, le=most, description=meaning)
