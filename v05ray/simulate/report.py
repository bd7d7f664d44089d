"""Tables and figures of a simulation: text for people, plain data for programs, SVG for both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from v05ray.figures.svg import Point, write_svg
from v05ray.simulate import theorems
from v05ray.simulate.compare import Row
from v05ray.simulate.scaling import ScalingRow

MAX_LINES = 6
"""A figure shows the first MAX_LINES contenders: more cannot be distinguished."""
BENCHMARK = 16
"""The group of GRPO that others are measured against."""


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one call of `v05ray simulate`."""

    world: str
    num_prompts: int
    settings: Mapping[str, Any]
    rows: Mapping[float, Sequence[Row]] = field(default_factory=dict)
    """Contenders by the prior's rms error."""
    benchmark_mse: float | None = None
    """MSE of the mean of `BENCHMARK` rewards in this world, exact."""
    scaling: Sequence[ScalingRow] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "world": self.world,
            "num_prompts": self.num_prompts,
            "settings": dict(self.settings),
            "benchmark_mse": self.benchmark_mse,
            "comparison": [{"prior_rms": rms, **asdict(row)} for rms, rows in self.rows.items() for row in rows],
            "scaling": [{**asdict(row), "ratio": row.ratio} for row in self.scaling],
        }


def mean_mse(rates: Sequence[float], num_rewards: int) -> float:
    """Mean over prompts of Var(mean of k rewards) = 4 p (1 - p) / k, exact."""
    return sum(4 * p * (1 - p) for p in rates) / (num_rewards * len(rates))


def describe(report: Report) -> str:
    """The report as text."""
    lines = [f"{report.world}: {report.num_prompts:,} prompts"]
    if report.benchmark_mse is not None:
        lines.append(f"mean of {BENCHMARK} rewards (grpo's baseline): MSE {report.benchmark_mse:.4f}")
    for rms, rows in report.rows.items():
        lines += ["", f"prior off by {rms:g} rms", *_table(_COMPARE_HEAD, [_cells(row, report) for row in rows])]
    if report.rows and report.benchmark_mse is not None:
        lines += ["", *verdicts(report)]
    if report.scaling:
        lines += ["", "asynchronous against rounds, same rollouts, seconds of generation per batch"]
        lines += _table(_SCALE_HEAD, [_scaling_cells(row) for row in report.scaling])
    return "\n".join(lines)


_COMPARE_HEAD = (
    "",
    "rollouts",
    "tokens",
    "MSE",
    "+-",
    f"/ mean-{BENCHMARK}",
    "bias",
    "false rej.",
    "false acc.",
    "gain",
    "makespan s",
    "idle",
    "/ bound",
)
_SCALE_HEAD = ("prompts", "generators", "async", "rounds", "async/rounds", "worst", "bound", "async/bound")
_SCALE_HEAD += ("rounds/bound", "bound by", "idle async", "idle rounds")


def _cells(row: Row, report: Report) -> tuple[str, ...]:
    relative = row.mse / report.benchmark_mse if report.benchmark_mse else math.nan
    return (
        row.name,
        f"{row.rollouts:.2f}",
        f"{row.tokens:,.0f}",
        f"{row.mse:.4f}",
        f"{row.mse_stderr:.4f}",
        f"{relative:.2f}",
        f"{row.bias:.3f}",
        _share(row.false_rejections),
        _share(row.false_acceptances),
        f"{row.gain:.3f}",
        f"{row.makespan_s:.0f}",
        _share(row.idle_share),
        f"{row.over_bound:.2f}",
    )


def _scaling_cells(row: ScalingRow) -> tuple[str, ...]:
    return (
        f"{row.num_prompts:,}",
        f"{row.num_generators:,}",
        f"{row.async_s:,.0f}",
        f"{row.rounds_s:,.0f}",
        f"{row.ratio:.3f}",
        f"{row.worst:.3f}",
        f"{row.bound_s:,.0f}",
        f"{row.async_s / row.bound_s:.2f}",
        f"{row.rounds_s / row.bound_s:.2f}",
        "work" if row.work_bound_s > 0.999 * row.bound_s else f"chain ({row.work_bound_s / row.bound_s:.0%})",
        _share(row.async_idle),
        _share(row.rounds_idle),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return [
        f"{line[0]:<{widths[0]}}  "
        + "  ".join(f"{text:>{width}}" for text, width in zip(line[1:], widths[1:], strict=True))
        for line in (head, *rows)
    ]


def verdicts(report: Report) -> list[str]:
    """For each prior quality, which contenders reach the MSE of the mean of 16, and with what share of its rollouts."""
    assert report.benchmark_mse is not None
    lines = [f"who needs at most a quarter of {BENCHMARK} rollouts for the MSE of their mean:"]
    for rms, rows in report.rows.items():
        quarter = [row for row in rows if row.mse <= report.benchmark_mse and row.rollouts <= BENCHMARK / 4]
        more = [row for row in rows if row.mse <= report.benchmark_mse and BENCHMARK / 4 < row.rollouts < BENCHMARK]
        text = ", ".join(f"{row.name} ({row.rollouts:.2f})" for row in quarter) or "none"
        if more:
            text += "; with more, but fewer than all: " + ", ".join(f"{row.name} ({row.rollouts:.2f})" for row in more)
        lines.append(f"  prior off by {rms:g}: {text}")
    return lines


def write_figures(report: Report, folder: Path) -> list[Path]:
    """SVG figures of what the report holds; returns their paths. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    if len(report.rows) > 1:
        paths.append(folder / "mse-by-prior.svg")
        write_svg(
            paths[-1],
            _by_prior(report),
            title="Error of the baseline by the quality of the prior",
            x_label="rms error of the prior on [-1, 1]",
            y_label="MSE of the baseline",
        )
    for rms, rows in report.rows.items():
        paths.append(folder / f"mse-by-rollouts-{rms:g}.svg")
        write_svg(
            paths[-1],
            _by_rollouts(rows),
            title=f"Error of the baseline by rollouts, prior off by {rms:g} rms",
            x_label="mean rollouts per prompt",
            y_label="MSE of the baseline",
        )
    for num_prompts in sorted({row.num_prompts for row in report.scaling}):
        paths.append(folder / f"makespan-{num_prompts}.svg")
        rows = [row for row in report.scaling if row.num_prompts == num_prompts]
        write_svg(
            paths[-1],
            {
                "rounds": [Point(math.log2(r.num_generators), r.rounds_s / r.bound_s) for r in rows],
                "async": [Point(math.log2(r.num_generators), r.async_s / r.bound_s) for r in rows],
            },
            title=f"Makespan over its lower bound, {num_prompts} prompts",
            x_label="log2 of the number of generators",
            y_label="makespan / lower bound",
        )
    return paths


def _by_prior(report: Report) -> dict[str, list[Point]]:
    names = list(dict.fromkeys(row.name for rows in report.rows.values() for row in rows))[:MAX_LINES]
    return {
        name: [
            Point(rms, row.mse, row.mse_stderr) for rms, rows in report.rows.items() for row in rows if row.name == name
        ]
        for name in names
    }


def _by_rollouts(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """Contenders of one estimator with fixed groups make a line; any other is a point of its own."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        estimator, _, rule = row.name.partition("@")
        name = f"{estimator}, fixed groups" if rule.startswith("fixed") else row.name
        lines.setdefault(name, []).append(Point(row.rollouts, row.mse, row.mse_stderr))
    kept = list(lines)[:MAX_LINES]
    return {name: sorted(lines[name], key=lambda point: point.x) for name in kept}


def describe_theorems() -> str:
    """The paper's claims beside what they come to; exact, a few seconds."""
    lines = ["Theorems 3.2, 3.3: the best fixed weight is d^2 / (d^2 + s2); k = 4, found by search over 1001 weights"]
    for p, prior in ((0.3, 0.2), (0.5, 0.4), (0.9, 0.0)):
        found, predicted, error = theorems.best_fixed_weight(p, prior, 4)
        lines.append(f"  p {p}, V {prior}: found {found:.3f}, predicted {predicted:.3f}, MSE {error:.4f}")
    lines += ["", "Theorem 3.4: |bias| <= 1/sqrt(k), and for a wrong prior about 1/(k |V - m|); p = .5"]
    for k in (4, 16, 64, 256):
        biases = [theorems.moments(theorems.v05, 0.5, prior, k)[0] for prior in (0.2, 0.4, 0.8)]
        shown = ", ".join(f"V {v}: {b:.4f} ({b * k * v:.2f})" for v, b in zip((0.2, 0.4, 0.8), biases, strict=True))
        lines.append(f"  k {k:>3}, bound {1 / math.sqrt(k):.4f}: bias (times k |V - m|) {shown}")
    lines += ["", "An exact prior is rejected (p = .5): " + ", ".join(_rejections())]
    ratios = ", ".join(f"{d:g}: {theorems.error_ratio(d, 4):.2f}" for d in (0.0, 0.2, 0.4, 0.5, 0.8))
    lines += [f"MSE(B) / MSE(mean), k = 4, p uniform, by |V - m|: {ratios}"]
    fused = theorems.moments(theorems.v05, 1.0, 0.5, 4)[1]
    lines += [f"s2 = 1/k overstates the noise: p = 1, V = .5, k = 4: MSE {fused:.3f}, the mean's 0.000"]
    lines += ["", "Section A.7: regret E R(K) - R(K*) in units of c, claimed bounded as c -> 0; p = .5, k0 = 4"]
    for exponent in (6, 8, 10, 12, 14):
        runs = [theorems.regret(0.5, prior, 2.0**-exponent) for prior in (0.0, 0.2, 0.4, 0.8)]
        shown = ", ".join(f"{run.in_costs:.1f}" for run in runs)
        lines.append(f"  c = 2^-{exponent}: V - m = 0, .2, .4, .8: {shown}")
    return "\n".join(lines)


def _rejections() -> list[str]:
    return [f"k {k}: {100 * theorems.rejection_rate(0.5, 0.0, k):.1f}%" for k in (4, 8, 16, 64)]
