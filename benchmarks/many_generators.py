"""What driver and scheduler cost with a hundred generators: real actors and loop, stubs where engines would be.

    python -m benchmarks.many_generators [--generators 128] [--prompts 1024] [--steps 3]

One local Ray cluster: the real scheduler actor over `--generators` generator actors, each in its own process; the real
reward actor with its verifiers; the real training loop with V0.5's rule, estimator and ledger. Stubs are: the engine
(answers with the right number of token ids and log-probabilities after log-normal numbers of tokens, each taking
`TOKEN_S` and a little more for every sequence beside it), the value model, the learner and the tracker, all at no cost.

Prints, of each step after the first: its time beside the longest chain of one prompt's draws (which no number of
generators shortens), prompts and rollouts per second, CPU time per rollout and role; and the memory of every role.
"""

import argparse
import asyncio
import functools
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayActorError

from benchmarks.memory_slope import Held, look, processes
from tests.fakes import FakeLearner, FakeTracker
from v05ray.actors.rewards import RayRewardPool, RewardActor
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.config import Config
from v05ray.data.stream import PromptSource, PromptStream
from v05ray.job.config_files import make_config
from v05ray.ledger import LedgerWriter
from v05ray.ports import GeneratorLost, Roles, Served, Weights
from v05ray.storage.checkpoint import Checkpoints
from v05ray.training.driver import Trainer
from v05ray.training.progress import Progress
from v05ray.types import Draw, DrawRequest, Prior, Prompt, Rollout, RolloutGroup, StepReport, SupportExample, Turn

MEDIAN_TOKENS, SIGMA, MAX_TOKENS = 150, 0.8, 1024
TOKEN_S, NEIGHBOUR_S = 0.01, 0.0001
"""Seconds per token of a sequence alone, and what each sequence beside it adds."""
PROMPT_TOKENS = 100


def pass_rate(prompt_id: str) -> float:
    """In [0, 1], most prompts easy or hard; the same in every process."""
    return random.Random(prompt_id).betavariate(0.5, 0.5)


class StubEngine:
    """A generator's process without an engine."""

    def __init__(self, name: str) -> None:
        self._name, self._version, self._running = name, 0, 0

    async def ready(self) -> None:
        """At once."""

    async def load_weights(self, weights: Weights) -> Served:
        """Fetches nothing."""
        self._version = weights.version
        return Served(self._version)

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Every rollout after its own time; the request ends with its longest."""
        return list(await asyncio.gather(*(self._one(request, i) for i in range(len(request.seeds)))))

    async def _one(self, request: DrawRequest, index: int) -> Rollout:
        rng = random.Random(request.seeds[index])
        num_tokens = max(1, min(request.sampling.max_tokens, round(MEDIAN_TOKENS * rng.lognormvariate(0, SIGMA))))
        right = rng.random() < pass_rate(request.prompt_id)
        self._running += 1
        seconds = num_tokens * (TOKEN_S + NEIGHBOUR_S * self._running)
        await asyncio.sleep(seconds)
        self._running -= 1
        turn = Turn(
            text=f"{'so ' * num_tokens} {7 if right else 8}",
            token_ids=tuple(rng.randrange(50_000) for _ in range(num_tokens)),
            logprobs=tuple(-rng.random() for _ in range(num_tokens)),
            finish_reason="stop",
            policy_version=self._version,
            generator_id=self._name,
            seconds=seconds,
        )
        return Rollout(request.prompt_id, request.sample_indices[index], (turn,))


@dataclass
class StubGenerator:
    """Implements `ports.Generator` over `StubEngine`; the scheduler's process starts the actor."""

    generator_id: str
    actor: Any = None

    async def ready(self) -> None:
        """Waits for the process."""
        self.actor = ray.remote(StubEngine).options(num_cpus=0, max_concurrency=1000).remote(self.generator_id)
        await self._call("ready")

    async def restart(self) -> None:
        """No process is meant to be lost here."""
        raise GeneratorLost(f"{self.generator_id} was lost")

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """All rollouts of the request."""
        return await self._call("draw", request)

    async def abort(self, prompt_id: str) -> None:
        """Nothing is aborted when halts drain."""

    async def load_weights(self, weights: Weights) -> Served:
        """Serves the version from now on."""
        return await self._call("load_weights", weights)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self.actor, method).remote(*arguments)
        except RayActorError as error:
            raise GeneratorLost(self.generator_id) from error


class StubValues:
    """Implements `ports.ValuePool`: the true rate, off by .4 rms on [-1, 1], as V0's answers are or better."""

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt."""
        rng = random.Random(seed)
        near = ((p.prompt_id, 2 * pass_rate(p.prompt_id) - 1 + rng.gauss(0, 0.4)) for p in prompts)
        return [Prior(name, max(-1.0, min(1.0, value)), policy_version) for name, value in near]

    async def waiting(self) -> tuple[()]:
        """It answers at once."""
        return ()


@dataclass
class Watch(Progress):
    """A progress that keeps each step's groups and figures instead of printing them."""

    groups: list[RolloutGroup] = field(default_factory=list)
    steps: list["Step"] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(num_steps=1)
        self._cpu, self._time = {}, 0.0

    def batch_started(self, step: int, num_prompts: int) -> None:
        """The step's clocks start."""
        before = time.process_time()
        self._cpu = cpu_s()
        self._cpu["driver"] += time.process_time() - before  # what looking at so many processes took
        self._time = time.perf_counter()

    def group_sealed(self, group: RolloutGroup) -> None:
        """Kept until the step ends."""
        self.groups.append(group)

    def step_done(self, report: StepReport) -> None:
        """The step's clocks stop."""
        now, cpu = time.perf_counter(), cpu_s()
        used = {role: seconds - self._cpu.get(role, 0.0) for role, seconds in cpu.items()}
        num_rollouts = sum(len(group.scored) for group in self.groups)
        self.steps.append(
            Step(
                now - self._time,
                report.metrics["timing_s/gen"],
                max(map(chain_s, self.groups)),
                len(self.groups),
                num_rollouts,
                sum(len(one.rollout.token_ids) for group in self.groups for one in group.scored),
                used,
            )
        )
        self.groups.clear()


@dataclass(frozen=True)
class Step:
    """What one step took."""

    seconds: float
    gen_s: float
    """From the first draw to the last sealed group."""
    chain_s: float
    num_prompts: int
    num_rollouts: int
    num_tokens: int
    cpu_s: Mapping[str, float]
    """By role."""


def chain_s(group: RolloutGroup) -> float:
    """Seconds of a prompt's draws one after another, each as long as its longest rollout."""
    seconds, start = 0.0, 0
    for decision in group.decisions:
        if isinstance(decision.action, Draw):
            drawn = group.scored[start : start + decision.action.num_rollouts]
            seconds, start = seconds + max(one.rollout.seconds for one in drawn), start + len(drawn)
    return seconds


def cpu_s() -> dict[str, float]:
    """CPU seconds so far of this process and all below it, by role."""
    used: dict[str, float] = {}
    for role, process in processes(psutil.Process()):
        times = process.cpu_times()
        used[role] = used.get(role, 0.0) + times.user + times.system
    return used


def config_of(prompts: int, steps: int, generators: int) -> Config:
    """V0.5 as published."""
    return make_config(
        {
            "run": {"num_steps": steps, "prompts_per_step": prompts, "checkpoint_every": 0},
            "model": {"path": "stub", "max_length": 2048},
            "data": {"train": "jsonl"},
            "sampling": {"max_tokens": MAX_TOKENS},
            "generators": {"count": generators},
            "rewards": {"verifier": "last_integer"},
        }
    )


async def measure(config: Config, folder: Path) -> tuple[float, list[Step], dict[str, Held]]:
    """(seconds until the last generator is up, every step, memory at the end)"""
    rewards = RayRewardPool(ray.remote(RewardActor).options(num_cpus=0, max_concurrency=1000).remote(config.rewards))
    generators = [StubGenerator(f"generator-{index}") for index in range(config.generators.count)]
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=10_000)
    scheduler = RayScheduler(actor.remote(config, rewards, generators))
    start = time.perf_counter()
    await asyncio.gather(rewards.ready(), scheduler.start())
    up_s = time.perf_counter() - start
    size = config.run.prompts_per_step
    prompts = [
        Prompt(f"p{i}", f"question {i}", tuple(range(PROMPT_TOKENS)), "7", "stub")
        for i in range(size * config.run.num_steps)
    ]
    watch = Watch()
    trainer = Trainer(
        config,
        Roles(scheduler, rewards, FakeLearner(), FakeTracker(), StubValues()),
        stream=PromptStream(
            [PromptSource("stub", prompts)],
            batch_size=size,
            shuffle=True,
            seed=0,
        ),
        eval_prompts=(),
        ledger=LedgerWriter(folder / "ledger"),
        checkpoints=Checkpoints(folder, config.model_dump(mode="json")),
        progress=watch,
        samples=folder / "samples",
    )
    memory: dict[str, Held] = {}
    await trainer.run(functools.partial(_note_memory, memory))
    return up_s, watch.steps, memory


def _note_memory(memory: dict[str, Held]) -> bool:
    """Asked after each step whether to stop: never."""
    memory.update(look(psutil.Process()))
    return False


def tables(up_s: float, steps: Sequence[Step], memory: Mapping[str, Held], generators: int) -> str:
    """Figures as Markdown; the first step warms up and is left out."""
    steps = steps[1:]

    def spread(values: Sequence[float], form: str = ",.0f") -> str:
        return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    lines = [
        f"{generators} generators up after {up_s:.1f} s; medians (least to most) of {len(steps)} steps\n",
        "| what | figure |\n|---|---|",
        f"| prompts, rollouts, response tokens | {steps[0].num_prompts:,}, {spread([s.num_rollouts for s in steps])}, "
        f"{spread([s.num_tokens for s in steps])} |",
        f"| generation and scoring, s | {spread([s.gen_s for s in steps], '.1f')} |",
        f"| longest chain of one prompt's draws, s | {spread([s.chain_s for s in steps], '.1f')} |",
        f"| the whole step, s | {spread([s.seconds for s in steps], '.1f')} |",
        f"| prompts per second | {spread([s.num_prompts / s.seconds for s in steps])} |",
        f"| rollouts per second | {spread([s.num_rollouts / s.seconds for s in steps])} |",
        "\n| role | processes | CPU per rollout, us | private MiB each | shared MiB each |\n|---|---|---|---|---|",
    ]
    for role, held in sorted(memory.items()):
        cost = [1e6 * step.cpu_s.get(role, 0.0) / step.num_rollouts for step in steps]
        each = held.num_processes
        lines.append(f"| {role} | {each} | {spread(cost)} | {held.private / each:.1f} | {held.shared / each:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3, help="measured ones, after one that warms up")
    parsed = parser.parse_args()
    temp_dir = tempfile.mkdtemp(prefix="v05g-")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=temp_dir)
    try:
        config = config_of(parsed.prompts, parsed.steps + 1, parsed.generators)
        print(tables(*asyncio.run(measure(config, Path(temp_dir) / "run")), parsed.generators))
    finally:
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)


if __name__ == "__main__":
    main()
