"""Charts as self-contained SVG text: lines with error bands, points with intervals, bars. Standard library only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from v05ray.storage import durable

_COLOURS = ("#1769aa", "#c2571a", "#2e7d32", "#6a3d9a", "#8d6e00", "#ad1457", "#455a64")
WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value."""

    x: float
    y: float
    stderr: float = 0.0
    """Half the height of the band or the interval, in units of y."""
    share: float | None = None
    """Part of all that was measured, in [0, 1]: the dot's area; None for a small dot."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar from 0 to y over [low, high]."""

    low: float
    high: float
    y: float
    label: str = ""
    """Written above it; a line break makes two lines."""


@dataclass(frozen=True, slots=True)
class Shade:
    """Ranges of x with a grey ground, and what they mean."""

    label: str
    ranges: Sequence[Range]


def write_svg(
    path: Path, lines: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str, from_zero: bool = True
) -> None:
    """Draw named lines with their error bands; `from_zero` starts the y axis at 0. Raises `OSError`.

    Lines without points are left out; without any the picture says so.
    """
    durable.replace_text(path, render_svg(lines, title=title, x_label=x_label, y_label=y_label, from_zero=from_zero))


def render_svg(
    lines: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    from_zero: bool = True,
    errors: Literal["band", "interval"] = "band",
    x_range: Range | None = None,
    y_range: Range | None = None,
    diagonal: bool = False,
    shade: Shade | None = None,
) -> str:
    """Named lines as SVG text.

    `errors` draws each point's stderr as a band along the line or as an interval of its own. `x_range` and `y_range`
    are what the axes must show; points beyond are shown too, errors are cut there. `diagonal` adds the line y = x.
    """
    lines = {name: points for name, points in lines.items() if points}
    parts = _head(title)
    if not lines:
        return _empty(parts)
    every = [point for points in lines.values() for point in points]
    xs = [*(x_range or ()), *(p.x for p in every)]
    ys = [p.y for p in every]
    ys += y_range or [p.y + sign * p.stderr for p in every for sign in (-1, 1)]
    ys += [0.0] if from_zero else []
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts += _shade(frame, shade)
    parts += _axes(frame, x_ticks, y_ticks, x_label, y_label)
    if diagonal:
        low, high = max(frame.x_low, frame.y_low), min(frame.x_high, frame.y_high)
        parts.append(_polyline([(frame.x(low), frame.y(low)), (frame.x(high), frame.y(high))], "#888", "4 4"))
    for index, points in enumerate(lines.values()):
        parts += _line(frame, points, _colour(index), errors)
    legend = [(name, _colour(index)) for index, name in enumerate(lines)]
    if shade is not None and shade.ranges:
        legend.append((shade.label, _SHADE))
    return _finish([*parts, *_legend(legend)])


def render_bars(bars: Sequence[Bar], *, title: str, x_label: str, y_label: str, x_range: Range) -> str:
    """Bars over a numeric axis as SVG text."""
    parts = _head(title)
    if not bars:
        return _empty(parts)
    x_ticks, y_ticks = _ticks(*x_range), _ticks(0.0, max(bar.y for bar in bars) * 1.15)
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts += _axes(frame, x_ticks, y_ticks, x_label, y_label)
    for bar in bars:
        left, right, top = frame.x(bar.low) + 1, frame.x(bar.high) - 1, frame.y(bar.y)
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{frame.y(0) - top:.1f}" fill="{_colour(0)}" opacity="0.75"/>'
        )
        for number, text in enumerate(reversed(bar.label.splitlines())):
            parts.append(
                f'<text x="{(left + right) / 2:.1f}" y="{top - 4 - 11 * number:.1f}" font-size="10" '
                f'text-anchor="middle">{escape(text)}</text>'
            )
    return _finish(parts)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _head(title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]


def _empty(parts: Sequence[str]) -> str:
    return _finish([*parts, f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no values yet</text>'])


def _finish(parts: Sequence[str]) -> str:
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

    def cut_y(self, value: float) -> float:
        return self.y(min(max(value, self.y_low), self.y_high))


_NARROWEST = 1e-12
"""A range narrower than this is drawn as a point."""


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers that enclose [low, high]."""
    if high - low < _NARROWEST:  # no step between the two has a tick of its own in floating point
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


_SHADE = "#bdbdbd"


def _shade(frame: _Frame, shade: Shade | None) -> list[str]:
    parts = []
    for low, high in shade.ranges if shade is not None else ():
        left, right = (frame.x(min(max(value, frame.x_low), frame.x_high)) for value in (low, high))
        parts.append(
            f'<rect class="shade" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - _TOP - _BOTTOM}" fill="{_SHADE}" opacity="0.5"/>'
        )
    return parts


def _polyline(points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{1 if dashes else 2}"{dashed}/>'


def _line(frame: _Frame, points: Sequence[Point], colour: str, errors: str) -> list[str]:
    parts = []
    if errors == "band" and any(p.stderr for p in points):
        upper = [f"{frame.x(p.x):.1f},{frame.cut_y(p.y + p.stderr):.1f}" for p in points]
        lower = [f"{frame.x(p.x):.1f},{frame.cut_y(p.y - p.stderr):.1f}" for p in reversed(points)]
        parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.15"/>')
    parts.append(_polyline([(frame.x(p.x), frame.y(p.y)) for p in points], colour))
    for p in points:
        x, y = frame.x(p.x), frame.y(p.y)
        if errors == "interval" and p.stderr:
            low, high = frame.cut_y(p.y - p.stderr), frame.cut_y(p.y + p.stderr)
            parts.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        radius = 3.0 if p.share is None else 2 + 12 * p.share**0.5
        opacity = "" if p.share is None else ' fill-opacity="0.35"'
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.4g}" fill="{colour}"{opacity}/>')
    return parts


def _legend(names: Sequence[tuple[str, str]]) -> list[str]:
    parts = []
    for index, (name, colour) in enumerate(names):
        y = _TOP - 6 + 16 * (index + 1)
        parts.append(f'<rect x="{_LEFT + 10}" y="{y - 9}" width="12" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 28}" y="{y - 2}">{escape(name)}</text>')
    return parts
