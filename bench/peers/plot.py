"""The outcomes as bars, in SVG, written by hand: no plotting library is worth a dependency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from bench.peers.outcome import Outcome
from bench.report import number

_PANELS: tuple[tuple[str, Callable[[Outcome], float]], ...] = (
    ("searches a second", lambda each: each.per_second),
    ("p99 of a search, ms (shorter is better)", lambda each: each.p99_ms),
    ("documents a second until searchable", lambda each: each.ingest_per_second),
    ("documents a second until indexed", lambda each: each.complete_per_second),
)
_COLOURS = {"Headwater": "#1f6f8b", "Headwater, two workers": "#1f6f8b"}
_OTHERS = "#9aa5ad"
_WIDTH, _LEFT, _RIGHT, _BAR, _HEAD = 720, 170, 90, 22, 34


def svg(outcomes: Sequence[Outcome]) -> str:
    panel = _HEAD + _BAR * len(outcomes) + 14
    height = panel * len(_PANELS) + 34
    title = f"{outcomes[0].documents:,} vectors, recall@10 at least Headwater's"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(12, 22, title, fill="#555555"),
    ]
    for place, (name, value) in enumerate(_PANELS):
        parts += _panel(28 + place * panel, name, [(each, value(each)) for each in outcomes])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(top: int, name: str, values: list[tuple[Outcome, float]]) -> list[str]:
    most = max(value for _, value in values)
    parts = [_text(12, top + 22, name, weight="bold")]
    for line, (outcome, value) in enumerate(values):
        y = top + _HEAD + line * _BAR
        length = max(1.0, (_WIDTH - _LEFT - _RIGHT) * value / most)
        colour = _COLOURS.get(outcome.name, _OTHERS)
        parts += [
            _text(_LEFT - 8, y + 14, outcome.name, anchor="end"),
            f'<rect x="{_LEFT}" y="{y + 2}" width="{length:.1f}" height="{_BAR - 5}"'
            f' fill="{colour}"/>',
            _text(_LEFT + length + 6, y + 14, number(value)),
        ]
    return parts


def _text(
    x: float, y: float, said: str, *, anchor: str = "start", weight: str = "normal", fill: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="{fill or "#222222"}">{escape(said)}</text>'
    )
