"""A reliability plot as SVG: what was predicted against what came."""

from collections.abc import Mapping, Sequence

from v05ray.value.scores import ReliabilityBin

_SIZE, _MARGIN = 360, 48
_COLOURS = ("#1f6feb", "#8b949e", "#d29922", "#a371f7", "#2da44e", "#cf222e", "#8a4600")


def _place(predicted: float, observed: float) -> tuple[float, float]:
    return round(_MARGIN + _SIZE * predicted, 1), round(_MARGIN + _SIZE * (1 - observed), 1)


def reliability_svg(bins: Mapping[str, Sequence[ReliabilityBin]]) -> str:
    """One line per method, a dot per bin with an area proportional to its count, and the diagonal of perfect ones."""
    whole = _SIZE + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole + 130}" height="{whole}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#888"/>',
        _line([_place(0, 0), _place(1, 1)], "#888", dashed=True),
        f'<text x="{_MARGIN + _SIZE / 2}" y="{whole - 12}" text-anchor="middle">predicted success</text>',
        f'<text x="14" y="{whole / 2}" text-anchor="middle" transform="rotate(-90 14 {whole / 2})">observed</text>',
    ]
    for tick in (0, 0.5, 1):
        x, y = _place(tick, tick)
        parts.append(f'<text x="{x}" y="{_MARGIN + _SIZE + 16}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for index, (name, rows) in enumerate(bins.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [_place(row.mean_predicted, row.mean_observed) for row in rows]
        total = sum(row.count for row in rows)
        parts.append(_line(points, colour))
        for row, (x, y) in zip(rows, points, strict=True):
            radius = round(2 + 12 * (row.count / total) ** 0.5, 1)
            parts.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}" fill-opacity="0.35"/>')
        y = _MARGIN + 18 * (index + 1)
        parts.append(f'<text x="{_MARGIN + _SIZE + 16}" y="{y}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    text = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{text}" fill="none" stroke="{colour}"{dash}/>'
