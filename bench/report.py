"""The figures as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figure import Figure


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def rows(figures: Sequence[Figure]) -> list[tuple[str, str, str, str]]:
    return [
        (
            figure.name,
            f"{number(figure.measured)} {figure.unit}".rstrip(),
            f"{figure.bound} {number(figure.target)}",
            "yes" if figure.reached else "NO",
        )
        for figure in figures
    ]


HEADS = ("figure", "measured", "target", "reached")


def plain(figures: Sequence[Figure]) -> str:
    table = [HEADS, *rows(figures)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def details(figure: Figure) -> str:
    return ", ".join(f"{name} {value}" for name, value in figure.details.items())


def write(folder: Path, machine: dict[str, Any], figures: Sequence[Figure]) -> None:
    """`results.md` and `results.json`; figures of an earlier run are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    taken_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    document = {
        "taken_at": taken_at,
        "machine": machine,
        "figures": [figure.as_dict() for figure in figures],
    }
    (folder / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    lines = [
        "# Benchmark results",
        "",
        f"Taken {taken_at} by `make bench ARGS=--write`, load generators on the same machine.",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in machine.items()),
        "",
        "| " + " | ".join(HEADS) + " |",
        "|---|---:|---:|---|",
        *("| " + " | ".join(row) + " |" for row in rows(figures)),
        "",
        "Details:",
        "",
        *(f"- {figure.name}: {details(figure)}" for figure in figures),
    ]
    (folder / "results.md").write_text("\n".join(lines) + "\n")
