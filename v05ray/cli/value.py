"""The command `v05ray value`: pretrain, train, eval, predict. Heavy imports happen inside the handlers."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v05ray.errors import ConfigError
from v05ray.ports import Tracker

if TYPE_CHECKING:
    from v05ray.value.evaluate import EvaluationReport
    from v05ray.value.model import EmbeddedBackend
    from v05ray.value.records import ValueRecord

OpenTracker = Callable[[str, str], Tracker]
"""(tracking URI, run name) to a tracker; the caller owns the room that knows MLflow."""


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", open_tracker: OpenTracker | None = None
) -> None:
    """Adds `value` to the command; every handler takes the parsed arguments and returns an exit code.

    With `open_tracker`, `value train --track URI` records the training.
    """
    value = commands.add_parser("value", help="the value model V0: make, train, evaluate, ask it")
    verbs = value.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_pretrain(verbs)
    _add_train(verbs, open_tracker)
    _add_eval(verbs)
    _add_predict(verbs)


def _add_pretrain(verbs: Any) -> None:
    from v05ray.value.budgets import DEFAULT_STEPS

    parser = verbs.add_parser("pretrain", help="make the built-in bundle from nothing but a seed")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle (.safetensors) to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="default: %(default)s")
    _add_cache(parser)
    parser.set_defaults(run=_pretrain)


def _add_train(verbs: Any, open_tracker: OpenTracker | None) -> None:
    from v05ray.value.budgets import DEFAULT_TRAIN_STEPS

    parser = verbs.add_parser("train", help="train a bundle on recorded scores: ledgers of runs, or V0's JSONL")
    _add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle (.safetensors) to write")
    parser.add_argument(
        "--start", type=Path, metavar="FILE", help="the bundle to start from; default: the built-in one"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=DEFAULT_TRAIN_STEPS, help="at most; default: %(default)s")
    parser.add_argument("--pairwise", type=float, default=0.0, metavar="W", help="weight of V0's pairwise term (.25)")
    parser.add_argument("--fresh", action="store_true", help="begin again instead of resuming from FILE.resume")
    if open_tracker is not None:
        parser.add_argument("--track", metavar="URI", help="MLflow tracking URI to record the training at")
    _add_cache(parser)
    parser.set_defaults(run=lambda parsed: _train(parsed, open_tracker))


def _add_eval(verbs: Any) -> None:
    parser = verbs.add_parser("eval", help="V0 beside base rate, kNN, Gaussian process and logistic regression")
    _add_data(parser)
    parser.add_argument(
        "--context", type=Path, nargs="+", metavar="PATH", help="support records; without it, prompts are held out"
    )
    parser.add_argument("--train", action="store_true", help="train V0 on each split (without --context)")
    parser.add_argument("--splits", type=int, default=3, help="splits of held-out prompts; default: %(default)s")
    parser.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--unseen-policies", action="store_true", help="also leave one policy out at a time")
    parser.add_argument("--support", type=int, default=256, help="most support pairs; default: %(default)s")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write the reliability plot")
    _add_model(parser)
    parser.set_defaults(run=_eval)


def _add_predict(verbs: Any) -> None:
    parser = verbs.add_parser("predict", help="ask V0 which prompts a policy will solve (routing, difficulty filters)")
    parser.add_argument("--context", type=Path, required=True, metavar="FILE", help="what the policy did: JSONL rows")
    parser.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help='prompts: JSON {"id": text}, JSONL or plain lines'
    )
    parser.add_argument("--policy", metavar="DATASET/MODEL@STEP", help="which policy, where the context has several")
    parser.add_argument("--support", type=int, default=256, help="most support pairs; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    _add_model(parser)
    parser.set_defaults(run=_predict)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="runs' folders, or JSONL files of V0's format",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help='prompt dictionary {"DATASET_ID": text} for JSONL')


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="default: the one in the package")
    _add_cache(parser)


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="embedding cache; default: in the user's cache folder"
    )


def _cache(parsed: argparse.Namespace) -> Path:
    from v05ray.value.embedding import default_cache_path

    return parsed.cache or default_cache_path()


def _pretrain(parsed: argparse.Namespace) -> int:
    from v05ray.value.pretrain import pretrain, stderr_line

    info = pretrain(parsed.out, seed=parsed.seed, steps=parsed.steps, cache=_cache(parsed), report=stderr_line)
    print(f"\nwrote {parsed.out} ({parsed.out.stat().st_size / 1e6:.2f} MB): {json.dumps(dict(info.notes))}")
    return 0


def _records(paths: list[Path], prompts: Path | None) -> "list[ValueRecord]":
    from v05ray.value.records import read_any, read_prompts

    return read_any(paths, None if prompts is None else read_prompts(prompts))


def _backend(parsed: argparse.Namespace) -> "EmbeddedBackend":
    from v05ray.value.bundle import BUILT_IN
    from v05ray.value.model import EmbeddedBackend

    return EmbeddedBackend.from_file(parsed.bundle or BUILT_IN, _cache(parsed), num_threads=1)


def _train(parsed: argparse.Namespace, open_tracker: OpenTracker | None) -> int:
    from v05ray.value.bundle import BUILT_IN
    from v05ray.value.embedding import torch_threads
    from v05ray.value.encoded import encode_records
    from v05ray.value.model import EmbeddedBackend
    from v05ray.value.train import NotBetterThanBaseRate, train
    from v05ray.value.trainer import TrainOptions

    start = parsed.start or BUILT_IN
    records = _records(parsed.data, parsed.prompts)
    options = TrainOptions(seed=parsed.seed, max_steps=parsed.steps, pairwise_weight=parsed.pairwise)
    uri = getattr(parsed, "track", None)
    tracker = open_tracker(uri, parsed.out.stem) if open_tracker is not None and uri is not None else None
    if parsed.fresh:
        parsed.out.with_name(parsed.out.name + ".resume").unlink(missing_ok=True)
    try:
        with torch_threads(1):
            encoder = EmbeddedBackend.from_file(start, _cache(parsed), num_threads=1).encoder
            print(f"embedding {len({record.text for record in records})} prompts", file=sys.stderr)
            metrics = train(
                encode_records(records, encoder),
                parsed.out,
                options=options,
                command=shlex.join(["v05ray", "value", "train", *sys.argv[3:]]),
                start=start,
                tracker=tracker,
            )
    except NotBetterThanBaseRate as error:
        print(f"\nv05ray: {error}", file=sys.stderr)
        return 1
    finally:
        if tracker is not None:
            tracker.close()
    print(f"\nwrote {parsed.out}; on held-out prompts:")
    for who, values in metrics.items():
        print(f"  {who:<10}" + "".join(f"  {name} {value:.4f}" for name, value in values.items()))
    return 0


def _eval(parsed: argparse.Namespace) -> int:
    from v05ray.value.embedding import torch_threads
    from v05ray.value.plot import reliability_svg

    if parsed.context is not None and (parsed.train or parsed.unseen_policies):
        raise ConfigError("--train and --unseen-policies hold prompts of --data out themselves; leave --context away")
    reports = []
    with torch_threads(1):
        for report in _evaluate(parsed):
            reports.append(report)
            if not parsed.json:
                print(f"{report.to_text()}\n", flush=True)
    if parsed.json:
        print(json.dumps([report.to_json() for report in reports], indent=1))
    if parsed.plot is not None:
        parsed.plot.write_text(reliability_svg(reports[0].reliability), encoding="utf-8")
    return 0


def _evaluate(parsed: argparse.Namespace) -> "Iterator[EvaluationReport]":
    """One report after the other, as they are done."""
    import numpy as np

    from v05ray.value import evaluate
    from v05ray.value.baselines import Predictor, all_baselines
    from v05ray.value.encoded import encode_records
    from v05ray.value.trainer import TrainOptions

    backend = _backend(parsed)
    records = _records(parsed.data, parsed.prompts)
    shared: dict[str, Any] = {
        "support_size": parsed.support,
        "num_resamples": parsed.resamples,
        "seed": parsed.seed,
    }
    if parsed.context is not None:
        context = _records(parsed.context, parsed.prompts)
        data = encode_records([*context, *records], backend.encoder)
        rows = np.arange(len(context) + len(records))
        yield evaluate.evaluate_pool(data, rows[: len(context)], rows[len(context) :], backend, **shared)
        return
    data = encode_records(records, backend.encoder)

    def predictors() -> list[Predictor]:
        v0: Predictor = evaluate.BackendPredictor(backend)
        if parsed.train:
            v0 = evaluate.TrainedPredictor((backend.features, backend.head), TrainOptions())
        return [v0, *all_baselines()]

    shared["share"] = parsed.held_out
    yield evaluate.evaluate_splits(data, predictors, num_splits=parsed.splits, **shared)
    if parsed.unseen_policies:
        yield evaluate.evaluate_unseen_policies(data, predictors, num_splits=parsed.splits, **shared)


def _predict(parsed: argparse.Namespace) -> int:
    from v05ray.types import Prompt
    from v05ray.value.model import ValueModel
    from v05ray.value.questions import read_context, read_questions

    questions: Mapping[str, str] = read_questions(parsed.prompts)
    support = read_context(parsed.context, questions, parsed.policy)
    backend = _backend(parsed)
    model = ValueModel(backend, parsed.support, min_support=16, choice=f"bundle {parsed.bundle or 'built in'}")
    prompts = [Prompt(identifier, text, (), "", "cli") for identifier, text in questions.items()]
    for prior in model.predict(prompts, support, policy_version=0, seed=parsed.seed):
        row = {"id": prior.prompt_id, "value": round(prior.value, 5), "success": round((prior.value + 1) / 2, 5)}
        print(json.dumps({**row, "origin": prior.origin}))
    truncated = int(model.metrics()["v05/value_truncated"])
    if truncated:
        print(f"{truncated} text(s) were longer than the model takes and lost their end", file=sys.stderr)
    return 0
