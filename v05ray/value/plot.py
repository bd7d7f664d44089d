"""A reliability plot as SVG: what was predicted against what came."""

from collections.abc import Mapping, Sequence

from v05ray.figures.svg import Point, render_svg
from v05ray.value.scores import ReliabilityBin


def reliability_svg(bins: Mapping[str, Sequence[ReliabilityBin]]) -> str:
    """One line per method, a dot per bin with an area proportional to its count, and the diagonal of perfect ones."""
    totals = {name: sum(row.count for row in rows) for name, rows in bins.items()}
    lines = {
        name: [Point(row.mean_predicted, row.mean_observed, share=row.count / totals[name]) for row in rows]
        for name, rows in bins.items()
    }
    return render_svg(
        lines,
        title="observed against predicted success",
        x_label="predicted success",
        y_label="observed",
        x_range=(0, 1),
        y_range=(0, 1),
        diagonal=True,
    )
