"""What a person sees of a run: a live line on a terminal, one line per step elsewhere, and the table at the end."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from v05ray.figures import svg
from v05ray.figures.sparkline import sparkline
from v05ray.rewards.verdicts import counts_shown, failures_shown
from v05ray.stopping.stop_signals import outliving_the_terminal
from v05ray.types import RolloutGroup, StepReport

_WINDOW = 10
"""Steps that the estimate of the remaining time rests on."""
EVALUATION_LINE_S = 30.0
"""Seconds between two lines about an evaluation in progress, where there is no live line."""
_FIGURES = (
    ("critic/score/mean", "reward {:+.3f}"),
    ("v05/rollouts_per_prompt", "{:.2f} rollouts/prompt"),
    ("perf/throughput", "{:,.0f} tokens/s"),
)


class Progress:
    """What a run prints. On a terminal its last line is live; elsewhere (CI, `ray job logs`) every step is one line.

    Use as a context manager: on leaving, the terminal is as it was, also after an error.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        file: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`file` is standard error by default; `live` None means: if that is a terminal that can move its cursor."""
        self._num_steps, self._clock = num_steps, clock
        self._file = sys.stderr if file is None else file
        self._wanted_live = live
        self._live: Any = None
        self._step = 0
        self._activity = "starting"
        self._started = 0.0
        self._step_s: float | None = None
        self._num_draws = self._num_drawn = 0
        self._last_line = 0.0
        self._num_prompts = self._num_sealed = self._num_rollouts = 0
        self._metrics: Mapping[str, float] = {}
        self._rewards: deque[float] = deque(maxlen=24)
        self._times: deque[float] = deque(maxlen=_WINDOW + 1)

    def __enter__(self) -> "Progress":
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._file, highlight=False)
        live = console.is_terminal and not console.is_dumb_terminal if self._wanted_live is None else self._wanted_live
        if live:
            self._live = Live(
                console=console, get_renderable=self._render, transient=True, refresh_per_second=4, redirect_stdout=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with outliving_the_terminal():
                self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """Prints a line that stays; a terminal that has gone does not end the run."""
        with outliving_the_terminal():
            if self._live is not None:
                self._live.console.print(text, markup=False)
            else:
                print(text, file=self._file, flush=True)

    def batch_started(self, step: int, num_prompts: int) -> None:
        """Step `step` (from 1) now generates for `num_prompts` prompts."""
        self._started = self._clock()
        if not self._times:
            self._times.append(self._started)
        self._step, self._activity = step, "generating"
        self._num_prompts, self._num_sealed, self._num_rollouts = num_prompts, 0, 0

    def group_sealed(self, group: RolloutGroup) -> None:
        """Counts one more sealed prompt of the step."""
        self._num_sealed += 1
        self._num_rollouts += len(group.scored)
        if self._num_sealed == self._num_prompts:
            self._activity = "learning"

    def step_done(self, report: StepReport) -> None:
        """Takes in the step's figures; elsewhere than on a terminal, prints its line."""
        self._step, self._metrics, self._activity = report.step, report.metrics, "finishing"
        self._times.append(self._clock())
        self._step_s = self._times[-1] - self._started
        if (reward := report.metrics.get("critic/score/mean")) is not None:
            self._rewards.append(reward)
        if self._live is None:
            self.note(self.line())

    def evaluation_started(self, step: int, num_prompts: int, num_draws: int) -> None:
        """Evaluation of the policy after `step` steps begins: `num_draws` requests, one or more a prompt."""
        self._step, self._activity = step, f"evaluating on {num_prompts} held-out prompts"
        self._num_draws, self._num_drawn = num_draws, 0
        self._started = self._last_line = self._clock()

    def evaluation_drawn(self) -> None:
        """One more of its requests is drawn and scored; where there is no live line, a line reports it now and then."""
        self._num_drawn += 1
        self._activity = f"evaluating: {self._num_drawn} of {self._num_draws} draws"
        now = self._clock()
        if self._live is None and now - self._last_line >= EVALUATION_LINE_S and self._num_drawn < self._num_draws:
            self._last_line = now
            left = (now - self._started) * (self._num_draws - self._num_drawn) / self._num_drawn
            self.note(f"{self._activity}, about {duration(left)} left")

    def evaluation_done(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the accuracies of the evaluation after `step`."""
        self.note(f"evaluation after step {step}: {_accuracies(metrics)}")

    def eta_s(self) -> float | None:
        """Estimated seconds to the last step, evaluations between steps included; None before the first is done."""
        if len(self._times) < 2:
            return None
        per_step = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return per_step * max(0, self._num_steps - self._step)

    def line(self) -> str:
        """The last step's line: reward, rollouts per prompt, throughput, failures, seconds, ETA."""
        parts = [f"step {self._step}/{self._num_steps}"]
        parts += [form.format(self._metrics[name]) for name, form in _FIGURES if name in self._metrics]
        if (failures := failures_shown(self._metrics)) is not None:
            parts.append(failures)
        if self._step_s is not None:
            parts.append(f"{self._step_s:.1f} s")
        eta = self.eta_s()
        if eta is not None:
            parts.append(f"ETA {duration(eta)}")
        return "  ".join(parts)

    def _render(self) -> Any:
        from rich.text import Text

        activity = self._activity
        if activity == "generating":
            activity = f"{self._num_sealed}/{self._num_prompts} prompts sealed, {self._num_rollouts} rollouts"
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(self.line(), style="bold")
        text.append(f"  {activity}")
        if len(self._rewards) > 1:
            text.append(f"  {sparkline(list(self._rewards))}", style="cyan")
        return text


def _accuracies(metrics: Mapping[str, float]) -> str:
    names = accuracy_names(metrics)
    if not names:
        return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    return ", ".join(f"{label} {_with_error(metrics, name)}" for name, label in names.items())


def _with_error(metrics: Mapping[str, float], name: str) -> str:
    stderr = metrics.get(f"{name}_stderr")
    return f"{metrics[name]:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of the final table."""

    steps: int
    num_steps: int
    curve: Sequence[Mapping[str, float]]
    """Held-out metrics of each evaluation, with its `step`, in order."""
    num_prompts: int
    num_rollouts: int
    num_response_tokens: int
    seconds: Mapping[str, float]
    """By stage, over the whole run; stages may overlap."""
    wall_s: float
    """From start to end of this process's work."""
    peak_bytes: int
    places: Mapping[str, str]
    """What lies where, and how to look at it: `model` to a path, `MLflow` to a command, ..."""
    sources: Sequence[tuple[str, str]] = ()
    """A row for each source of prompts, where there are several."""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    """By kind, over the whole run."""
    updates: str = ""
    """Of the weights: how many, what travelled, how many proofs."""


_STAGES = {
    "prior": "value model",
    "gen": "generation and scoring (overlaps with learning where learner.stream_tokens > 0)",
    "learn": "learning: forward and backward",
    "step_rollout_and_learn": "generation and learning together",
    "update_actor": "optimiser step",
    "update_weights": "weights to the generators",
    "ledger": "ledger",
    "testing": "evaluation",
}


def summary_table(summary: Summary) -> str:
    """A Markdown table, aligned so that it reads as plain text too; with the accuracy curve below it."""
    rows = [("steps", f"{summary.steps} of {summary.num_steps}")]
    if summary.curve:
        rows += _accuracy_rows(summary.curve)
    per_prompt = summary.num_rollouts / summary.num_prompts if summary.num_prompts else 0.0
    rows += [
        ("prompts", f"{summary.num_prompts:,}"),
        ("rollouts drawn", f"{summary.num_rollouts:,}"),
        ("mean rollouts per prompt", f"{per_prompt:.2f}"),
        ("response tokens", f"{summary.num_response_tokens:,}"),
        *summary.sources,
        *((("verdicts", counts_shown(summary.verdicts)),) if summary.verdicts else ()),
        *((("weight updates", summary.updates),) if summary.updates else ()),
        *((f"time: {_STAGES.get(stage, stage)}", f"{spent:.1f} s") for stage, spent in summary.seconds.items()),
        ("time: start to end", duration(summary.wall_s)),
        ("peak memory", f"{summary.peak_bytes / 2**30:.1f} GiB"),
        *summary.places.items(),
    ]
    return _markdown(("what", "figure"), rows)


def _accuracy_rows(points: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    rows = []
    for name, label in accuracy_names(points[0]).items():
        before, after = (_with_error(point, name) for point in (points[0], points[-1]))
        first, last = points[0]["step"], points[-1]["step"]
        rows.append((f"held-out accuracy, {label}", f"{before} (step {first:g}) -> {after} (step {last:g})"))
        if len(points) > 2:
            values = [point[name] for point in points if name in point]
            rows.append((f"its curve, {min(values):.2f} to {max(values):.2f}", sparkline(values)))
    return rows


def accuracy_names(metrics: Mapping[str, float]) -> dict[str, str]:
    """The accuracies over all sources that an evaluation measured: metric name to a label for people."""
    labels = {}
    for name in metrics:
        prefix, _, measure = name.rpartition("/")
        if prefix == "val/all" and not measure.endswith("_stderr"):
            if measure == "greedy":
                labels[name] = "greedy"
            elif measure.startswith("mean_at_"):
                labels[name] = measure.replace("_at_", "@")
    return labels


def write_curve(path: Path, points: Sequence[Mapping[str, float]], *, title: str) -> None:
    """The accuracy curve as an SVG file. Raises `OSError`."""
    names = accuracy_names(points[0]) if points else {}
    lines = {
        label: [svg.Point(p["step"], p[name], p.get(f"{name}_stderr", 0.0)) for p in points if name in p]
        for name, label in names.items()
    }
    svg.write_svg(path, lines, title=title, x_label="optimiser steps", y_label="held-out accuracy")


def _markdown(header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    cells = [(a.replace("|", "\\|"), b.replace("|", "\\|")) for a, b in (header, *rows)]
    left, right = (max(len(row[i]) for row in cells) for i in (0, 1))
    lines = [f"| {a:<{left}} | {b:<{right}} |" for a, b in cells]
    return "\n".join([lines[0], f"| {'-' * left} | {'-' * right} |", *lines[1:]])
