"""Every recipe takes two real steps: vLLM, verifiers, V0, budget, estimator, DeepSpeed, on the tiny model.

A run of the command per recipe would spend most of its time starting. So all recipes share one engine, one V0 and the
verifier processes, in and beside this process; scheduler, learner, trainer and ledger are fresh ones for each.
"""

import asyncio
import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import Tensor

from tests.fakes import FakeTracker, silent_progress
from v05ray import budget, recipes
from v05ray.config import Config
from v05ray.generation.engine import Engine
from v05ray.job.config_files import load_config
from v05ray.job.preflight import Prepared, make_stream, prepare
from v05ray.learning.learner import Learner
from v05ray.ledger import LedgerReader, LedgerWriter
from v05ray.ports import GeneratorLost, PendingCall, Roles, Served, Weights
from v05ray.rewards.pool import VerifierPool
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.storage.checkpoint import Checkpoints
from v05ray.training.driver import Trainer
from v05ray.types import DrawRequest, Prior, Prompt, Rollout, SupportExample, TrainSample
from v05ray.value.embedding import torch_threads
from v05ray.value.model import ValueModel
from v05ray.weights import pack

JOB = Path(__file__).parents[3] / "jobs" / "tiny_cpu.yaml"
NUM_STEPS, PROMPTS_PER_STEP = 2, 8
# After the first step V0 has seen as many prompts as a step has, so it gives the priors of the second.
SMALL = (f"run.num_steps={NUM_STEPS}", f"run.prompts_per_step={PROMPTS_PER_STEP}", "value.min_support=8", "data.eval=")


@dataclass(frozen=True)
class LocalGenerator:
    """`ports.Generator` over an engine in this process."""

    engine: Engine
    generator_id: str = "g0"

    async def ready(self) -> None:
        await self.engine.ready()

    async def restart(self) -> None:
        raise GeneratorLost("the one engine is not started again")

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        return await self.engine.draw(request)

    async def abort(self, prompt_id: str) -> None:
        await self.engine.abort(prompt_id)

    async def load_weights(self, weights: Weights) -> Served:
        return Served(await self.engine.load_weights(weights.version, weights.payload))


@dataclass(frozen=True)
class LocalLearners:
    """`ports.LearnerGroup` over a gang of one rank in this process."""

    rank: Learner

    async def accumulate(self, samples: Sequence[TrainSample]) -> None:
        self.rank.accumulate(samples)

    async def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> list[list[float]]:
        found = self.rank.logprobs(samples, share_prefix=share_prefix, temperature=temperature)
        return [found[index] for index in range(len(samples))]

    async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
        return self.rank.step()

    async def abandon(self) -> None:
        self.rank.abandon()

    async def weights(self, version: int) -> Weights:
        buckets = list(pack(self.rank.export_weights(), version=version))
        return Weights(version, buckets, sum(bucket.num_bytes for bucket in buckets))

    async def save(self, folder: Path) -> None:
        self.rank.save(folder)

    async def load(self, folder: Path) -> None:
        self.rank.load(folder)

    async def export(self, folder: Path) -> None:
        self.rank.export_hf(folder)

    async def waiting(self) -> Sequence[PendingCall]:
        return ()


@dataclass(frozen=True)
class LocalValues:
    """`ports.ValuePool` over a V0 in this process."""

    model: ValueModel

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        return self.model.predict(prompts, support, policy_version=policy_version, seed=seed)

    async def waiting(self) -> Sequence[PendingCall]:
        return ()


@dataclass(frozen=True)
class Shared:
    """What is started once for all recipes."""

    loop: asyncio.Runner
    engine: Engine
    values: ValueModel
    rewards: VerifierPool
    prepared: Prepared
    port: int


def config_of(recipe: str, model: Path, *overrides: str) -> Config:
    return load_config(JOB, [f"recipe={recipe}", f"model.path={model}", *SMALL, *overrides])


def one_number(prompts: Sequence[str], completions: Sequence[str], **columns: object) -> list[float]:
    """In TRL's form: 1 for a response that is a number alone."""
    return [float(text.strip().isdigit()) for text in completions]


@pytest.fixture(scope="module")
def shared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    config, folder = config_of("v05", tiny_model), tmp_path_factory.mktemp("shared")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    engine = Engine(tiny_model, config.generators, config.model, generator_id="g0", log_file=folder / "vllm.log")
    rewards = VerifierPool(config.rewards)
    with asyncio.Runner() as loop, torch_threads(1):
        loop.run(engine.ready())
        values = ValueModel.load(config.value, cache=folder / "embeddings.sqlite")
        yield Shared(loop, engine, values, rewards, prepare(config), port)
        rewards.close()
    engine.close()


@dataclass(frozen=True)
class Result:
    config: Config
    steps: list[dict[str, float]]
    """Metrics of every step."""
    ledger: LedgerReader
    moved: bool
    """Whether any weight is another than before."""


async def train(shared: Shared, config: Config, folder: Path) -> Result:
    learner = Learner(
        0,
        1,
        config.model,
        config.learner,
        seed=config.run.seed,
        temperature=config.sampling.temperature,
        max_response_tokens=config.sampling.max_tokens,
    )
    learner.setup("127.0.0.1", shared.port)
    before, tracker = copy_of(learner), FakeTracker()
    pool = GeneratorPool(shared.rewards, draw_timeout_s=60.0)
    pool.add([LocalGenerator(shared.engine)])
    await pool.until_ready()
    trainer = Trainer(
        config,
        Roles(
            scheduler=RolloutScheduler(pool, config.budget, seed=config.run.seed),
            rewards=shared.rewards,
            learners=LocalLearners(learner),
            tracker=tracker,
            values=LocalValues(shared.values) if config.value.enabled else None,
        ),
        stream=make_stream(config, shared.prepared.train),
        eval_prompts=(),
        ledger=LedgerWriter(folder / "ledger"),
        checkpoints=Checkpoints(folder, config.model_dump(mode="json"), keep=1),
        progress=silent_progress(),
        samples=folder / "samples",
    )
    await trainer.begin()
    state = await trainer.run()
    assert state.step == NUM_STEPS
    after = copy_of(learner)
    moved = any(not tensor.equal(after[name]) for name, tensor in before.items())
    steps = [metrics for step, metrics in tracker.metrics if "training/global_step" in metrics]
    return Result(config, steps, LedgerReader(folder / "ledger"), moved)


def copy_of(learner: Learner) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.export_weights()}


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_two_steps_on_real_engines(name: str, shared: Shared, tiny_model: Path, tmp_path: Path):
    config = config_of(name, tiny_model)
    result = shared.loop.run(train(shared, config, tmp_path))

    assert len(result.steps) == NUM_STEPS
    for metrics in result.steps:
        assert {key: value for key, value in metrics.items() if not math.isfinite(value)} == {}
        assert metrics["actor/update_skipped"] == 0
        assert metrics["actor/grad_norm"] > 0
        assert ("actor/kl" in metrics) == (config.learner.kl_coefficient > 0)
        assert ("v05/prior_mean" in metrics) == config.value.enabled
    assert result.moved

    rule = budget.build(config.budget.rule.name, config.budget.rule.options)
    for step in range(1, NUM_STEPS + 1):
        groups = list(result.ledger.groups(step))
        counts = [len(group.rollouts) for group in groups]
        assert len(counts) == PROMPTS_PER_STEP
        assert rule.min_rollouts <= min(counts) <= max(counts) <= rule.n_max
        if "mean_rollouts" in config.budget.rule.options:
            assert sum(counts) <= config.budget.rule.options["mean_rollouts"] * PROMPTS_PER_STEP
        priors = [group.prior.value if group.prior else None for group in groups]
        if config.value.enabled:
            assert all(prior is not None and -1 <= prior <= 1 for prior in priors)
            # Before it has seen enough prompts V0 gives all of them the base rate.
            assert (len(set(priors)) > 1) == (step > 1)
        else:
            assert priors == [None] * PROMPTS_PER_STEP


def test_two_steps_with_several_verifiers(shared: Shared, tiny_model: Path, tmp_path: Path):
    alone = f"{{name: python, path: '{__name__}:one_number', scale: zero_one, weight: 0.2}}"
    config = config_of("v05", tiny_model, f"rewards.verifier=[last_integer, {alone}]")
    rewards = VerifierPool(config.rewards)
    try:
        result = shared.loop.run(train(replace(shared, rewards=rewards), config, tmp_path))
    finally:
        rewards.close()
    assert result.moved
    for step, metrics in enumerate(result.steps, 1):
        rollouts = [rollout for group in result.ledger.groups(step) for rollout in group.rollouts]
        for rollout in rollouts:
            right, form = rollout.components
            assert (right.label, form.label) == ("last_integer", "one_number")
            assert rollout.verdict == right.verdict
            assert rollout.reward == pytest.approx((right.reward + 0.2 * form.reward) / 1.2)
            assert form.reward == (1 if rollout.response.strip().isdigit() else -1)
        assert metrics["rewards/one_number/errors"] == metrics["rewards/last_integer/errors"] == 0
        assert metrics["critic/score/mean"] == pytest.approx(
            (metrics["rewards/last_integer/mean"] + 0.2 * metrics["rewards/one_number/mean"]) / 1.2
        )
