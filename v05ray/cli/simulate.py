"""The command `v05ray simulate`: arguments in, tables and figures out. Heavy imports wait for the command."""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from v05ray.errors import ConfigError

T = TypeVar("T")
DEFAULT_COMPARE = "v05,v05_loo,v05_eb,v05_eb_loo,grpo,rloo"


def add_parser(commands: Any) -> None:
    """Adds the command to an argparse sub-parsers object; it sets `run` to a function of the parsed arguments."""
    parser = commands.add_parser("simulate", help="compare recipes where the truth is known; no GPU, no Ray")
    parser.add_argument("--world", choices=("beta", "u", "recorded"), default="u", help="where pass rates come from")
    parser.add_argument("--beta", metavar="A,B", default="1,1", help="parameters of the world beta (default: uniform)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="JSON lines with a score in [-1, 1], for recorded")
    parser.add_argument("--prompts", type=int, metavar="N", help="prompts (default 1024; recorded: all)")
    parser.add_argument("--prior-rms", default="0.2", metavar="E,...", help="rms errors of the prior on [-1, 1]")
    parser.add_argument(
        "--compare",
        default=DEFAULT_COMPARE,
        metavar="NAME,...",
        help="recipes, or ESTIMATOR@RULE:KEY=VALUE such as v05_eb@fixed:n=4; `all` for every recipe, `none`",
    )
    parser.add_argument("--batch", type=int, default=256, help="prompts per batch of the comparison")
    parser.add_argument("--epochs", type=int, default=2, help="measured passes over the prompts, after one unmeasured")
    parser.add_argument(
        "--halt", type=float, default=1 / 16, metavar="FRACTION", help="halt_fraction of the comparison"
    )
    parser.add_argument("--generators", metavar="N,...", help="compare async with rounds on N generators")
    parser.add_argument("--batches", default="64", metavar="N,...", help="... for batches of N prompts")
    parser.add_argument("--repeats", type=int, default=3, help="... this many batches each")
    parser.add_argument("--rule", default="osla", help="... under this budget rule")
    parser.add_argument("--slots", type=int, default=128, help="sequences that one generator runs together")
    parser.add_argument("--placement", choices=("together", "split"), default="together", help="of one draw's rollouts")
    parser.add_argument(
        "--queue", choices=("fifo", "topups_first"), default="fifo", help="which draw takes a free slot"
    )
    parser.add_argument("--theorems", action="store_true", help="check the paper's claims as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.json and figures (SVG) there")
    parser.set_defaults(run=run_simulate)


def run_simulate(parsed: argparse.Namespace) -> int:
    """Prints the report. Raises `ConfigError` for what cannot be used."""
    from v05ray.simulate.report import describe, describe_theorems, write_figures

    report = _simulate(parsed)
    print(json.dumps(report.as_dict(), indent=1) if parsed.json else describe(report))
    if parsed.theorems and not parsed.json:
        print("\n" + describe_theorems())
    if parsed.out:
        paths = write_figures(report, parsed.out)
        (parsed.out / "report.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n")
        if not parsed.json:
            print(f"\nwritten: {', '.join(path.name for path in paths)} and report.json in {parsed.out}")
    return 0


def _simulate(parsed: argparse.Namespace) -> Any:
    from v05ray import recipes
    from v05ray.simulate.cluster import Cluster
    from v05ray.simulate.compare import Contender, Settings, compare
    from v05ray.simulate.report import BENCHMARK, Report, mean_mse
    from v05ray.simulate.scaling import scale
    from v05ray.simulate.worlds import World

    names = {"all": list(recipes.RECIPES), "none": []}.get(parsed.compare, parsed.compare.split(","))
    contenders = [Contender.parse(name) for name in names]
    rates = _rates(parsed)
    errors = _numbers("--prior-rms", parsed.prior_rms, float)
    settings = Settings(batch_size=parsed.batch, num_epochs=parsed.epochs, halt_fraction=parsed.halt)
    cluster = Cluster(max_num_seqs=parsed.slots, placement=parsed.placement, queue=parsed.queue)
    worlds = {rms: World.of(rates, prior_rms=rms, seed=parsed.seed) for rms in errors}
    scaling = []
    if parsed.generators:
        if parsed.repeats < 1:
            raise ConfigError(f"--repeats must be >= 1, got {parsed.repeats}")
        scaling = scale(
            worlds[errors[0]],
            cluster,
            generators=_numbers("--generators", parsed.generators, int),
            batch_sizes=_numbers("--batches", parsed.batches, int),
            rule=parsed.rule,
            num_repeats=parsed.repeats,
        )
    return Report(
        world=parsed.world,
        num_prompts=len(rates),
        settings={key: str(v) if isinstance(v, Path) else v for key, v in vars(parsed).items() if key != "run"},
        rows={rms: compare(world, contenders, settings, cluster) for rms, world in worlds.items()}
        if contenders
        else {},
        benchmark_mse=mean_mse(rates, BENCHMARK),
        scaling=scaling,
    )


def _rates(parsed: argparse.Namespace) -> list[float]:
    from v05ray.seeding import derive_seed
    from v05ray.simulate import worlds

    if parsed.prompts is not None and parsed.prompts < 1:
        raise ConfigError(f"--prompts must be >= 1, got {parsed.prompts}")
    rng = random.Random(derive_seed("rates", parsed.seed))
    if parsed.world == "recorded":
        if parsed.data is None:
            raise ConfigError("the world 'recorded' needs --data FILE: JSON lines with a score in [-1, 1] on each")
        rates = worlds.recorded(parsed.data)
        return rng.sample(rates, parsed.prompts) if parsed.prompts and parsed.prompts < len(rates) else rates
    count = parsed.prompts or 1024
    if parsed.world == "u":
        return worlds.u_shaped(count, rng)
    parameters = _numbers("--beta", parsed.beta, float)
    if len(parameters) != 2:
        raise ConfigError(f"--beta needs two numbers, such as 2,5, got {parsed.beta!r}")
    return worlds.beta(count, parameters[0], parameters[1], rng)


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} needs numbers with commas between, got {text!r}") from None
