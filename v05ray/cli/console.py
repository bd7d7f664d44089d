"""What the commands print before and after the work."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from v05ray.cli.doctor import asked_table
from v05ray.config import Config
from v05ray.figures.run import source_rows, write_figures
from v05ray.job.preflight import local_node
from v05ray.ledger import LedgerError
from v05ray.stopping.exit_codes import ExitCode
from v05ray.tracking.naming import name_part
from v05ray.tracking.uri import default_uri, how_to_look
from v05ray.training.progress import Summary, summary_table, write_curve

if TYPE_CHECKING:
    from v05ray.evaluation.evaluate import EvalReport
    from v05ray.launch.training import Outcome


def print_asked(config: Config) -> None:
    """What the run reserves, and what the nodes have."""
    if config.cluster.address is None:
        Console(stderr=True).print(asked_table(config, [local_node(config)]))


def print_outcome(config: Config, outcome: "Outcome") -> None:
    """The final table; it is also kept in the run's folder, with the figures."""
    folder, state = outcome.folder, outcome.state
    uri = config.tracking.uri or default_uri(config.run.output_dir)
    text = summary_table(
        Summary(
            steps=state.step,
            num_steps=config.run.num_steps,
            curve=state.curve,
            num_prompts=state.totals.num_prompts,
            num_rollouts=state.totals.num_rollouts,
            num_response_tokens=state.totals.num_response_tokens,
            seconds=state.seconds,
            wall_s=outcome.wall_s,
            peak_bytes=outcome.peak_bytes,
            sources=source_rows(folder.path),
            verdicts=state.totals.verdicts,
            updates=str(state.updates),
            places={
                "model": str(folder.model),
                "ledger": f"{folder.ledger}/rollouts-*.parquet, decisions-*.parquet; v05ray replay {folder.path}",
                "MLflow": how_to_look(uri),
                "logs": str(folder.logs),
            },
        )
    )
    (folder.path / "summary.md").write_text(text + "\n")
    print(text)
    if len(state.curve) > 1:
        write_curve(folder.curve, state.curve, title=f"{folder.path.name}: {config.recipe}")
        print(f"\naccuracy curve: {folder.curve}")
    with contextlib.suppress(LedgerError):  # stopped before the first step: there is nothing to draw
        for path in write_figures(folder.path):
            print(f"figure: {path}")
    if outcome.interrupted:
        saved = (
            f"the checkpoint of step {state.step} is whole"
            if outcome.exit_code is ExitCode.STOPPED
            else "there is no checkpoint yet"
        )
        print(f"\nstopped by a signal; {saved}; continue with: v05ray train {folder.config} --resume {folder.path}")


def print_evaluation(config: Config, report: "EvalReport") -> None:
    """Every measure of an evaluation, on one line each."""
    print(f"{config.model.path} on {len({row.prompt_id for row in report.rows})} held-out prompts")
    for name, value in sorted(report.metrics.items()):
        print(f"  {name:<40} {value:.4f}")
    print(f"\n{evaluation_table(report)}")


def evaluation_table(report: "EvalReport") -> str:
    """A line per set and one over all prompts: accuracies in percent, with 95 % intervals over prompts."""
    sources = list(dict.fromkeys(row.source for row in report.rows))
    measures = [
        name.removeprefix("val/all/")
        for name in report.metrics
        if name.startswith(("val/all/greedy", "val/all/mean_at_", "val/all/pass_at_", "val/all/maj_at_"))
        and not name.endswith(("_stderr", "_reward"))
    ]
    most = max((int(name.rpartition("_")[2]) for name in measures if name.startswith("mean_at_")), default=0)
    measures = [name for name in measures if not name.startswith("pass_at_") or name == f"pass_at_{most}"]
    rows = [["set", "prompts", *(name.replace("_at_", "@") for name in measures)]]
    for source in (*sources, "all") if len(sources) > 1 else sources:
        prefix = f"val/{name_part(source)}/"
        cells = [_with_interval(report.metrics, prefix + name) for name in measures]
        rows.append([source, f"{report.metrics[prefix + 'num_prompts']:.0f}", *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    value, error = metrics[name], metrics.get(f"{name}_stderr")
    return f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * 1.96 * error:.1f}")
