"""Curves for people: one line of text, and one self-contained SVG. Standard library only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from v05ray import durable

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = ("#1769aa", "#c2571a", "#2e7d32", "#6a3d9a", "#8d6e00", "#ad1457")
WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44


def sparkline(values: Sequence[float], *, low: float | None = None, high: float | None = None, width: int = 40) -> str:
    """One character per value, lowest to highest (or `low` to `high`); more than `width` values are averaged in runs.

    A value that is not finite is a space; values that are all equal sit in the middle.
    """
    shown = _thin(values, width)
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    bottom = min(finite) if low is None else low
    top = max(finite) if high is None else high
    return "".join(_bar(value, bottom, top) if math.isfinite(value) else " " for value in shown)


def _bar(value: float, bottom: float, top: float) -> str:
    share = (value - bottom) / (top - bottom) if top > bottom else 0.5
    return _BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))]


def _thin(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    runs = [values[a:b] for a, b in pairwise(edges)]
    return [sum(run) / len(run) for run in runs]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value."""

    x: float
    y: float
    stderr: float = 0.0
    """Half the height of the band, in units of y."""


def write_svg(
    path: Path, lines: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str, from_zero: bool = True
) -> None:
    """Draw named lines with their error bands; `from_zero` starts the y axis at 0. Raises `OSError`.

    Lines without points are left out; without any the picture says so.
    """
    durable.replace_text(path, render_svg(lines, title=title, x_label=x_label, y_label=y_label, from_zero=from_zero))


def render_svg(
    lines: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str, from_zero: bool = True
) -> str:
    """The text that `write_svg` writes."""
    lines = {name: points for name, points in lines.items() if points}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    if not lines:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no values yet</text>')
        return "\n".join([*parts, "</svg>\n"])
    every = [point for points in lines.values() for point in points]
    x_ticks = _ticks(min(p.x for p in every), max(p.x for p in every))
    lowest = min(p.y - p.stderr for p in every)
    y_ticks = _ticks(min(0.0, lowest) if from_zero else lowest, max(p.y + p.stderr for p in every))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts += _axes(frame, x_ticks, y_ticks, x_label, y_label)
    for index, (name, points) in enumerate(lines.items()):
        parts += _line(frame, name, points, index)
    return "\n".join([*parts, "</svg>\n"])


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers that enclose [low, high]."""
    if high <= low:
        low, high = low - 0.5, low + 0.5
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> list[str]:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{frame.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}</text>')
    middle_x, middle_y = (_LEFT + WIDTH - _RIGHT) / 2, (_TOP + bottom) / 2
    return [
        *parts,
        f'<line x1="{_LEFT}" y1="{bottom}" x2="{WIDTH - _RIGHT}" y2="{bottom}" stroke="black"/>',
        f'<text x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="14" y="{middle_y}" text-anchor="middle" transform="rotate(-90 14 {middle_y})">'
        f"{escape(y_label)}</text>",
    ]


def _line(frame: _Frame, name: str, points: Sequence[Point], index: int) -> list[str]:
    colour = _COLOURS[index % len(_COLOURS)]
    upper = [f"{frame.x(p.x):.1f},{frame.y(p.y + p.stderr):.1f}" for p in points]
    lower = [f"{frame.x(p.x):.1f},{frame.y(p.y - p.stderr):.1f}" for p in reversed(points)]
    parts = []
    if any(p.stderr for p in points):
        parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.15"/>')
    path = " ".join(f"{frame.x(p.x):.1f},{frame.y(p.y):.1f}" for p in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts += [f'<circle cx="{frame.x(p.x):.1f}" cy="{frame.y(p.y):.1f}" r="3" fill="{colour}"/>' for p in points]
    y = _TOP - 6 + 16 * (index + 1)
    parts.append(f'<rect x="{_LEFT + 10}" y="{y - 9}" width="12" height="4" fill="{colour}"/>')
    parts.append(f'<text x="{_LEFT + 28}" y="{y - 2}">{escape(name)}</text>')
    return parts
