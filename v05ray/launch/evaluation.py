"""`v05ray eval`: what is evaluated, on which prompts, into which folder; continued where an earlier one stopped."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v05ray.actors.loss import plain_errors
from v05ray.actors.probe import measure_generator_node
from v05ray.actors.start import start_inference
from v05ray.config import Config
from v05ray.config.run import SourceSpec
from v05ray.data.loading import load_prompts
from v05ray.environments import SingleTurn
from v05ray.errors import ConfigError
from v05ray.evaluation.benchmark_sets import BENCHMARKS
from v05ray.evaluation.evaluate import Draw, EvalReport, EvalRow, Kind, evaluate, summarise
from v05ray.evaluation.responses import EvaluationFolder
from v05ray.job.model_checks import check_model_folder
from v05ray.job.preflight import check_resources, load_tokenizer, local_node, outside_code, prepare, prepare_verifiers
from v05ray.launch.training import cluster, run_to_end
from v05ray.machine.fitting import fit_to_machine
from v05ray.machine.layout import inference_roles
from v05ray.models.huggingface import check_token_ids, read_settings, vocabulary_size, weight_files
from v05ray.rewards.by_source import with_source_verifiers
from v05ray.rewards.self_check import reference_check
from v05ray.seeding import derive_seed
from v05ray.stopping.exit_codes import ExitCode, StoppedAtOnce
from v05ray.stopping.stop_signals import Stop, StopSignals
from v05ray.storage.run_folder import RunFolder, check_output_dir, held
from v05ray.training.progress import Progress
from v05ray.types import Prompt, Sampling

log = logging.getLogger(__name__)

_PIECES, _PIECE_BYTES = 64, 65_536
_FINISH_S = 10.0
"""How long a stopped evaluation waits for verdicts on what was drawn."""


class EvaluationStopped(StoppedAtOnce):
    """A signal ended an evaluation; says what is kept."""

    def __init__(self, folder: Path, num_kept: int, num_draws: int) -> None:
        """`num_kept` of `num_draws` draws are in `folder`."""
        self.code = ExitCode.STOPPED
        KeyboardInterrupt.__init__(
            self,
            f"stopped; {num_kept} of {num_draws} draws are kept in {folder}: the same command with --out {folder} "
            "draws the rest",
        )


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that is done, and where its responses are."""

    report: EvalReport
    folder: Path


def evaluate_only(config: Config, *, benchmarks: bool = False, out: Path | None = None) -> Evaluated:
    """Evaluates `model.path` on the held-out prompts.

    Args:
        config: the resolved config.
        benchmarks: whether `data.eval` is a list of whole sets, each loaded by itself and without a limit; the training
            prompts are not looked at then.
        out: the output folder; one that holds part of the same evaluation is continued. None: `NAME-eval` in
            `run.output_dir`, with a number behind it where that is taken.

    Raises:
        ConfigError: the config cannot be evaluated here, or `out` holds another evaluation; nothing has been started.
        EvaluationStopped: a signal ended it; the same call continues it.
    """
    check_output_dir(config.run.output_dir)  # before the machine is measured and prompts are loaded
    config = fit_to_machine(config, measure_node=measure_generator_node).config
    prompts = prepare_sets(config) if benchmarks else prepare(config).eval
    if not prompts:
        raise ConfigError("data.eval names no held-out prompts; give it a source, or give --benchmarks")
    if config.cluster.address is None:
        check_resources(config, [local_node(config)], inference_roles)
    print_of = fingerprint(config, prompts)
    folder = output_folder(config, print_of, out)
    with held(RunFolder(folder.path)):
        folder.claim(print_of)
        return Evaluated(_evaluate_into(folder, config, prompts), folder.path)


def _evaluate_into(folder: EvaluationFolder, config: Config, prompts: Sequence[Prompt]) -> EvalReport:
    known = folder.known()
    wanted = draws(config, prompts)
    if missing := [draw for draw in wanted if draw not in known]:
        if known:
            log.warning("%s: %d of %d draws are there already", folder.path, len(known), len(wanted))
        try:
            with StopSignals() as signals, cluster(config, folder.path / "logs", signals):
                work = _on_actors(folder, config, prompts, known, len(missing), signals)
                report = run_to_end(work, signals)
        except KeyboardInterrupt:
            raise EvaluationStopped(folder.path, len(folder.known()), len(wanted)) from None
    else:
        rows = tuple(row for draw in wanted for row in known[draw])
        report = EvalReport(summarise(rows), rows)
    folder.finish(prompts, report)
    return report


async def _on_actors(
    folder: EvaluationFolder,
    config: Config,
    prompts: Sequence[Prompt],
    known: Mapping[Draw, Sequence[EvalRow]],
    num_missing: int,
    signals: StopSignals,
) -> EvalReport:
    stop = Stop(log.warning)
    with plain_errors(), Progress(num_steps=0, live=False) as progress, signals.delivered(stop.request):
        async with start_inference(config) as (scheduler, rewards):
            progress.evaluation_started(0, len(prompts), num_missing)

            def keep(rows: Sequence[EvalRow]) -> None:
                folder.keep(rows)
                progress.evaluation_drawn()

            return await evaluate(
                prompts,
                scheduler.draw,
                SingleTurn(rewards),
                samples_per_prompt=config.evaluation.samples_per_prompt,
                sampling=config.evaluation.draws_with(config.sampling),
                seed=config.run.seed,
                step=0,
                known=known,
                keep=keep,
                finish_s=_FINISH_S,
            )


def draws(config: Config, prompts: Sequence[Prompt]) -> list[Draw]:
    """Every request that the evaluation is made of, in the order of its rows."""
    kinds: tuple[Kind, ...] = ("greedy", "sampled") if config.evaluation.samples_per_prompt else ("greedy",)
    return [(prompt.prompt_id, kind) for prompt in prompts for kind in kinds]


def prepare_sets(config: Config) -> list[Prompt]:
    """The prompts of every set of `data.eval`, after a look at all that could refuse them; raises `ConfigError`."""
    for named in outside_code(config):
        log.warning("code from outside of v05ray: %s", named)
    check_model_folder(config)
    prepare_verifiers(config)
    return load_sets(config, load_tokenizer(config))


def load_sets(config: Config, tokenizer: Any) -> list[Prompt]:
    """All prompts of each set of `data.eval`, set by set; a question that two sets share counts in both.

    Says where a benchmark has more or fewer prompts than it should. Raises `ConfigError` with the set's name.
    """
    specs, data = config.data.eval or (), config.data
    check = reference_check(with_source_verifiers(config).verifier)
    most = config.model.max_length - config.evaluation.draws_with(config.sampling).max_tokens
    seed = derive_seed("data", "eval", config.run.seed)
    prompts: list[Prompt] = []
    for spec in specs:
        try:
            found = load_prompts([spec], data, tokenizer, max_prompt_tokens=most, seed=seed, reference_check=check)
        except ConfigError as error:
            raise ConfigError(f"benchmark {spec.label}: {error}{_way_round(spec)}") from error
        benchmark = BENCHMARKS.get(spec.label or "")
        if benchmark is not None and len(found) != benchmark.num_rows:
            log.warning(
                "benchmark %s: %d prompts here, %d as published, so its figures are not those of the whole set",
                *(benchmark.name, len(found), benchmark.num_rows),
            )
        prompts += found
    check_token_ids(
        ((prompt.prompt_id, prompt.token_ids) for prompt in prompts), vocabulary_size(read_settings(config.model.path))
    )
    return prompts


def _way_round(spec: SourceSpec) -> str:
    on_hub = spec.name == "huggingface" and not Path(str(spec.options["path"])).exists()
    return f"; --data {spec.label}=PATH takes a file or folder in its place" if on_hub else ""


def fingerprint(config: Config, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What decides an evaluation's numbers: two with the same are the same evaluation. JSON values."""
    sampling, rewards = config.evaluation.draws_with(config.sampling), with_source_verifiers(config)
    asked = hashlib.blake2b(digest_size=8)
    for prompt in prompts:
        asked.update(repr((prompt.prompt_id, prompt.token_ids, prompt.answer)).encode("utf-8", "backslashreplace"))
    return {
        "model": model_digest(config.model.path),
        "dtype": config.model.dtype,
        "prompts": f"{len(prompts)}:{asked.hexdigest()}",
        "samples": config.evaluation.samples_per_prompt,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        **_stops(sampling),
        "max_length": config.model.max_length,
        "seed": config.run.seed,
        "verifier": rewards.verifier.model_dump(mode="json"),
        "truncated": rewards.truncated,
    }


def _stops(sampling: Sampling) -> dict[str, Any]:
    """Only where there are any: an evaluation that an earlier version began without them is still the same."""
    texts = {"stop": list(sampling.stop), "include_stop": sampling.include_stop} if sampling.stop else {}
    tokens = {"stop_token_ids": list(sampling.stop_token_ids)} if sampling.stop_token_ids else {}
    return {**texts, **tokens}


def model_digest(folder: Path) -> str:
    """A hash of the model's config and, of each file of weights, its size and 64 evenly spaced pieces of 64 KiB.

    Where the folder is does not count. Raises `ConfigError` where there are no weights.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=8)
    for file in weight_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as weights:
            for i in range(_PIECES):
                weights.seek(size * i // _PIECES)
                digest.update(weights.read(_PIECE_BYTES))
    return digest.hexdigest()


def output_folder(config: Config, print_of: Mapping[str, Any], out: Path | None) -> EvaluationFolder:
    """`out`, or the first `NAME-eval`, `NAME-eval-2`, ... that is new or holds an unfinished part of the same."""
    if out is not None:
        return EvaluationFolder(out)
    number = 1
    while True:
        path = config.run.output_dir / (f"{config.run.name}-eval" + (f"-{number}" if number > 1 else ""))
        if not path.exists() or EvaluationFolder(path).is_of(print_of):
            return EvaluationFolder(path)
        number += 1
