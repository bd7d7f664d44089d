"""The commands `v05ray replay` and `v05ray explain`: arguments in, text out. Heavy imports wait for their command."""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v05ray.errors import ConfigError

if TYPE_CHECKING:
    from v05ray.replay import Changes, Figures, Report


def add_parsers(commands: Any) -> None:
    """Adds both commands to an argparse sub-parsers object; each sets `run` to a function of the parsed arguments."""
    replay = commands.add_parser("replay", help="run a recorded run's decisions again, under other settings")
    replay.add_argument("folder", type=Path, metavar="RUN", help="a run's folder")
    replay.add_argument("--rule", help="another budget rule, such as fixed")
    replay.add_argument("--cost", type=float, help="osla's cost per rollout; a shorthand for --option cost=C")
    replay.add_argument("--cold-start", type=int, help="osla's cold start")
    replay.add_argument("--n-max", type=int, help="osla's cap")
    replay.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="any option of the rule")
    replay.add_argument("--halt", type=float, metavar="FRACTION", help="halt_fraction; 0 switches the halt off")
    replay.add_argument("--dispatch-multiple", type=int, help="pad dispatches to a multiple of this")
    replay.add_argument("--mode", choices=("async", "rounds"), help="judge one by one, or at barriers")
    replay.add_argument("--on-halt", choices=("drain", "abort"), help="what becomes of top-ups in flight at the halt")
    replay.add_argument("--estimator", help="another advantage estimator, such as v05_eb")
    replay.add_argument("--estimator-option", action="append", default=[], metavar="KEY=VALUE", help="its options")
    replay.add_argument(
        "--prior-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how priors are repaired: fallback, ...",
    )
    replay.add_argument("--steps", metavar="A-B", help="report these steps alone, such as 10 or 10-20")
    replay.add_argument("--by-step", action="store_true", help="one line per step as well")
    replay.add_argument("--json", action="store_true", help="print everything as JSON")
    replay.set_defaults(run=run_replay)

    explain = commands.add_parser("explain", help="explain one prompt's decisions, number by number")
    explain.add_argument("folder", type=Path, metavar="RUN", help="a run's folder")
    explain.add_argument("--prompt", required=True, metavar="ID", help="the prompt's id")
    explain.add_argument("--step", type=int, help="in this step alone")
    explain.set_defaults(run=run_explain)


def run_replay(parsed: argparse.Namespace) -> int:
    """Prints the report of `replay`; returns 1 where the record does not reproduce its own decisions."""
    from v05ray.ledger import LedgerError
    from v05ray.replay import open_ledger, replay

    changes = changes_of(parsed)
    try:
        report = replay(open_ledger(parsed.folder), changes, steps=_steps(parsed.steps))
    except LedgerError as error:
        raise ConfigError(str(error)) from error
    print(json.dumps(asdict(report), indent=1) if parsed.json else describe(report, by_step=parsed.by_step))
    return 0 if report.reproduced else 1


def run_explain(parsed: argparse.Namespace) -> int:
    """Prints how the prompt was decided, number by number."""
    from v05ray.ledger import LedgerError
    from v05ray.replay import open_ledger
    from v05ray.replay.explain import explain

    try:
        print(explain(open_ledger(parsed.folder), parsed.prompt, step=parsed.step))
    except LedgerError as error:
        raise ConfigError(str(error)) from error
    return 0


def changes_of(parsed: argparse.Namespace) -> "Changes":
    """What the arguments of `replay` change."""
    from v05ray.replay import Changes

    short = {"cost": parsed.cost, "cold_start": parsed.cold_start, "n_max": parsed.n_max}
    return Changes(
        rule=parsed.rule,
        rule_options={**_options(parsed.option), **{key: v for key, v in short.items() if v is not None}},
        halt_fraction=parsed.halt,
        dispatch_multiple=parsed.dispatch_multiple,
        mode=parsed.mode,
        on_halt=parsed.on_halt,
        advantage=parsed.estimator,
        advantage_options=_options(parsed.estimator_option),
        prior_options=_options(parsed.prior_option),
    )


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"option {pair!r} is not of the form KEY=VALUE, such as cost=0.001")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options


def _steps(text: str | None) -> Iterable[int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    try:
        return range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise ConfigError(f"--steps {text!r} is neither a step nor a range of them, such as 10-20") from None


def describe(report: "Report", *, by_step: bool = False) -> str:
    """The report as text: what was changed, and a table of recorded against replayed."""
    before, after = asdict(report.recorded), asdict(report.settings)
    changed = [_changed(name, before[name], after[name]) for name in before if before[name] != after[name]]
    lines = ["changed: " + ("; ".join(changed) if changed else "nothing")]
    if not report.reproduced:
        lines.append(
            "WARNING: the recorded settings do not give the recorded priors and decisions: the ledger is damaged, or "
            "another version of v05ray wrote it"
        )
    lines += ["", *_table(report.before, report.after), ""]
    lines.append(f"decisions equal in every number for {report.num_same} of {report.after.num_prompts} prompts")
    if report.after.num_short:
        lines.append(
            f"the record ran out for {report.after.num_short} prompts, which would have drawn "
            f"{report.after.num_missing} more rollouts: their figures are those of what exists"
        )
    if by_step:
        lines += ["", *(_step_line(step, was, now) for step, was, now in report.steps)]
    return "\n".join(lines)


def _changed(name: str, before: Any, after: Any) -> str:
    """`cost: 0.1 -> 0.2`; of options only those that differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        same = {key for key in before if key in after and before[key] == after[key]}
        before, after = ({key: v for key, v in side.items() if key not in same} for side in (before, after))
    return f"{name}: {before} -> {after}"


def _table(before: "Figures", after: "Figures") -> list[str]:
    rows = [
        ("", "recorded", "replayed"),
        ("prompts", f"{before.num_prompts:,}", f"{after.num_prompts:,}"),
        ("rollouts", f"{before.num_rollouts:,}", f"{after.num_rollouts:,}"),
        ("rollouts per prompt", f"{before.rollouts_per_prompt:.3f}", f"{after.rollouts_per_prompt:.3f}"),
        ("response tokens", f"{before.num_tokens:,}", f"{after.num_tokens:,}"),
        *(
            (f"stopped: {reason}", f"{before.stops.get(reason, 0):,}", f"{after.stops.get(reason, 0):,}")
            for reason in sorted({*before.stops, *after.stops})
        ),
        ("MSE, b2/(1 + k b2)", f"{before.mse_rule:.4f}", f"{after.mse_rule:.4f}"),
        ("MSE, leave-one-out", f"{before.mse_loo:.4f}", f"{after.mse_loo:.4f}"),
        ("advantage, mean", f"{before.advantage_mean:+.4f}", f"{after.advantage_mean:+.4f}"),
        ("advantage, variance", f"{before.advantage_variance:.4f}", f"{after.advantage_variance:.4f}"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]


def _step_line(step: int, before: "Figures", after: "Figures") -> str:
    return (
        f"step {step}: {before.num_rollouts:,} -> {after.num_rollouts:,} rollouts, {before.num_tokens:,} -> "
        f"{after.num_tokens:,} tokens, MSE {before.mse_rule:.4f} -> {after.mse_rule:.4f}, advantage variance "
        f"{before.advantage_variance:.4f} -> {after.advantage_variance:.4f}"
    )
