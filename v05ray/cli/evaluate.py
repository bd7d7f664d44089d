"""The command `v05ray eval`: a job's held-out prompts, or named benchmarks for a job or a model folder."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v05ray.cli.arguments import intermix
from v05ray.errors import ConfigError

if TYPE_CHECKING:
    from v05ray.config import Config

_ROOM_FOR_PROMPT = 2048
_MAX_TOKENS = 4096
_EPILOG = """\
benchmarks: aime24, aime25, amc23, math500, minerva, olympiadbench (docs/evaluation.md)

  v05ray eval models/policy --benchmarks aime24,math500 --data math500=math500.jsonl --samples 16
  v05ray eval jobs/job.yaml evaluation.samples_per_prompt=8

An evaluation that was stopped resumes when the same command is given again."""


def add_parser(commands: Any) -> None:
    """Adds `eval` to the commands."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a model on a job's held-out prompts, or on named benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    intermix(parser)
    parser.add_argument("target", type=Path, metavar="MODEL_OR_JOB", help="a model folder, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, such as run.seed=1")
    parser.add_argument("--benchmarks", metavar="NAME,...", default="", help="named sets, instead of data.eval")
    parser.add_argument(
        "--data", metavar="NAME=PATH", action="append", default=[], help="a set's file or folder; repeatable"
    )
    parser.add_argument("--samples", metavar="N", help="sampled responses a prompt (evaluation.samples_per_prompt)")
    parser.add_argument("--temperature", metavar="T", help="of these (evaluation.temperature)")
    parser.add_argument("--top-p", metavar="P", help="of these (evaluation.top_p)")
    parser.add_argument("--max-tokens", metavar="N", help="longest response, in tokens (evaluation.max_tokens)")
    parser.add_argument("--stop", metavar="TEXT", action="append", help="ends a response; repeatable (evaluation.stop)")
    parser.add_argument(
        "--stop-token-ids", metavar="ID,...", help="tokens that end a response (evaluation.stop_token_ids)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder; default: NAME-eval in run.output_dir")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from v05ray.cli.console import print_evaluation
    from v05ray.config.section import given_path

    config, benchmarks = config_of(parsed)
    from v05ray.launch.evaluation import evaluate_only

    out = None if parsed.out is None else given_path(parsed.out, "--out")
    done = evaluate_only(config, benchmarks=benchmarks, out=out)
    print_evaluation(config, done.report)
    print(f"every response, with its verdict: {done.folder / 'responses.parquet'}")
    return 0


def config_of(parsed: argparse.Namespace) -> tuple["Config", bool]:
    """The config that the arguments ask for, and whether its `data.eval` are whole benchmarks; `ConfigError`."""
    from v05ray.evaluation.benchmark_sets import BOXED, chosen
    from v05ray.job.config_files import load_config

    sets = chosen([name.strip() for name in parsed.benchmarks.split(",") if name.strip()], parsed.data)
    overrides = [*parsed.overrides, *_flags(parsed)]
    if parsed.target.is_dir():
        if not sets:
            raise ConfigError(
                f"{str(parsed.target)!r} is a model folder: say on what to evaluate it with --benchmarks, --data "
                "NAME=PATH, or give a job's YAML file with model.path"
            )
        return config_of_model(parsed.target, list(sets.values()), overrides), True
    config = load_config(parsed.target, overrides)
    if not sets:
        return config, False
    data = config.data.model_copy(update={"eval": tuple(sets.values()), "suffix": config.data.suffix or BOXED})
    return config.model_copy(update={"data": data}), True


def config_of_model(folder: Path, sets: Sequence[Any], overrides: Sequence[str]) -> "Config":
    r"""A config to evaluate a model folder with: its chat template where it has one, `\boxed` asked for, `math`.

    The longest response is 4096 tokens or what the model's context allows beside a prompt.
    """
    from v05ray.evaluation.benchmark_sets import BOXED
    from v05ray.job.config_files import make_config
    from v05ray.models.huggingface import context_length, read_object, read_settings

    context = context_length(read_settings(folder)) or _MAX_TOKENS + _ROOM_FOR_PROMPT
    max_tokens = min(_MAX_TOKENS, context * 3 // 4)
    asked = [one.partition("=")[2] for one in overrides if one.startswith("evaluation.max_tokens=")]
    longest = int(asked[-1]) if asked and asked[-1].isdecimal() else max_tokens
    template = (folder / "chat_template.jinja").exists() or "chat_template" in read_object(
        folder / "tokenizer_config.json"
    )
    sources = [one.model_dump(mode="json") for one in sets]
    # No prompts are taken from there; without label and verifier it does not speak against another one for a set.
    unused = {name: value for name, value in sources[0].items() if name not in ("label", "verifier")}
    written = {
        "run": {"name": _run_name(folder)},
        "model": {"path": str(folder), "max_length": min(context, longest + _ROOM_FOR_PROMPT)},
        "data": {"train": unused, "eval": sources, "suffix": BOXED, "chat_template": template},
        "sampling": {"max_tokens": 1},
        "evaluation": {"max_tokens": max_tokens},
        "rewards": {"verifier": {"name": "math"}},
    }
    return make_config(written, overrides, where=str(folder))


def _run_name(folder: Path) -> str:
    """The folder's name with what no run's name may hold left out."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip(".-")[:100] or "model"


def _flags(parsed: argparse.Namespace) -> list[str]:
    given = {
        "samples_per_prompt": parsed.samples,
        "temperature": parsed.temperature,
        "top_p": parsed.top_p,
        "max_tokens": parsed.max_tokens,
        # As JSON, which is YAML too: texts are taken as typed, whatever they hold.
        "stop": None if parsed.stop is None else json.dumps(parsed.stop, ensure_ascii=False),
        "stop_token_ids": None if parsed.stop_token_ids is None else f"[{parsed.stop_token_ids}]",
    }
    return [f"evaluation.{name}={value}" for name, value in given.items() if value is not None]
