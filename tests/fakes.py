"""In-process stand-ins for every port: deterministic, scripted by prompt id, with optional latencies and losses.

The reward of a rollout is scripted where it is drawn and read where it is scored, so that it travels through whatever
is under test: `FakeGenerator({"p1": [1, -1]})` writes it into the response's text, `FakeRewardPool` reads it back.

    prompt = make_prompt("p1")
    generator = FakeGenerator({"p1": [1.0, -1.0]})
    rollouts = await generator.draw(make_request(prompt, [0, 1]))
    [(await FakeRewardPool().score(prompt, r)).reward for r in rollouts] == [1.0, -1.0]
"""

import asyncio
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

from v05ray.ports import GeneratorLost, PendingCall, RewardPool, Served, Weights
from v05ray.seeding import rollout_seed
from v05ray.stopping.outstanding import Outstanding
from v05ray.training.progress import Progress
from v05ray.types import (
    DrawRequest,
    FinishReason,
    Observation,
    Prior,
    Prompt,
    Rollout,
    Sampling,
    ScoredRollout,
    SupportExample,
    TrainSample,
    Turn,
    Verdict,
)

Latency = float | Callable[[str, int], float]
"""Seconds, or a function of (prompt id, sample index) that gives them."""

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=16)
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=16)
OBSERVATION = Observation("and now?", (90, 91))
_REWARD = re.compile(r"\[reward=([^\]]+)\]")


def silent_progress() -> Progress:
    """The progress of a run whose lines are not looked at."""
    return Progress(num_steps=1, file=io.StringIO(), live=False)


def make_prompt(prompt_id: str, *, source: str = "fake", answer: str = "", num_tokens: int = 4) -> Prompt:
    """A prompt whose text is made of its id."""
    return Prompt(prompt_id, f"question {prompt_id}", tuple(range(num_tokens)), answer, source)


def make_request(
    prompt: Prompt, sample_indices: Sequence[int], *, sampling: Sampling = SAMPLING, run_seed: int = 0, step: int = 0
) -> DrawRequest:
    """A request with the seeds that the project derives."""
    seeds = tuple(rollout_seed(run_seed, step, prompt.prompt_id, i) for i in sample_indices)
    return DrawRequest(prompt.prompt_id, prompt.token_ids, tuple(sample_indices), seeds, sampling)


def one_turn(
    prompt_id: str,
    sample_index: int,
    text: str,
    token_ids: tuple[int, ...] = (),
    logprobs: tuple[float, ...] = (),
    finish_reason: FinishReason = "stop",
    policy_version: int = 0,
    generator_id: str = "g0",
    seconds: float = 0.0,
) -> Rollout:
    """A rollout as a generator draws it."""
    turn = Turn(text, token_ids, logprobs, finish_reason, policy_version, generator_id, seconds)
    return Rollout(prompt_id, sample_index, (turn,))


def response_text(reward: float, label: str = "") -> str:
    """A response that carries its own reward; `label` distinguishes responses of equal reward."""
    return f"{label}[reward={reward!r}]"


def _seconds(latency: Latency, prompt_id: str, sample_index: int) -> float:
    return latency(prompt_id, sample_index) if callable(latency) else latency


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@dataclass
class FakeGenerator:
    """`ports.Generator`: sample i of a prompt has reward `rewards[prompt_id][i % len]`, the greedy one its own.

    A response has `num_tokens` tokens, cut off at the request's `max_tokens` (finish reason `length`).
    """

    rewards: Mapping[str, Sequence[float]]
    generator_id: str = "g0"
    latency: Latency = 0.0
    greedy: Mapping[str, float] = field(default_factory=dict)
    """By prompt id; where missing, the first scripted reward."""
    num_tokens: int | Callable[[str, int], int] = 3
    lost_after: int | None = None
    """The draw after this many is refused with `GeneratorLost`, as are all later ones."""
    restarts: bool = False
    """Whether `restart` brings a lost replica back, serving version 0 as a restarted engine does."""
    version: int = 0
    requests: list[DrawRequest] = field(default_factory=list)
    """Every request accepted, in order."""
    loaded: list[Weights] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    """Prompts whose work was aborted, in order."""

    def __post_init__(self) -> None:
        self._lost = asyncio.Event()

    def lose(self) -> None:
        """The replica dies now: draws in flight and later ones raise `GeneratorLost`."""
        self._lost.set()

    async def ready(self) -> None:
        """At once, unless it is lost."""
        await asyncio.sleep(0)
        if self._lost.is_set():
            raise GeneratorLost(f"{self.generator_id} is gone")

    async def restart(self) -> None:
        """A lost replica comes back here if it `restarts`."""
        await asyncio.sleep(0)
        if not self.restarts:
            raise GeneratorLost(f"{self.generator_id} is gone")
        self._lost.clear()
        self.lost_after = None
        self.version = 0

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """The scripted rollouts, after the longest latency among them."""
        if self.lost_after is not None and len(self.requests) >= self.lost_after:
            self.lose()
        if self._lost.is_set():
            raise GeneratorLost(f"{self.generator_id} is gone")
        self.requests.append(request)
        rollouts = [self._rollout(request, i) for i in request.sample_indices]
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(self._lost.wait(), max((r.seconds for r in rollouts), default=0.0))
        except TimeoutError:
            return rollouts
        raise GeneratorLost(f"{self.generator_id} died while drawing for {request.prompt_id}")

    async def abort(self, prompt_id: str) -> None:
        """Noted; a cancelled draw has ended by itself."""
        self.aborted.append(prompt_id)

    async def load_weights(self, weights: Weights) -> Served:
        """Serves the version from now on; draws in flight keep the old one. Proves what it is asked for."""
        if self._lost.is_set():
            raise GeneratorLost(f"{self.generator_id} is gone")
        self.loaded.append(weights)
        self.version = weights.version
        return Served(self.version, weights.proof)

    def _rollout(self, request: DrawRequest, sample_index: int) -> Rollout:
        prompt_id, script = request.prompt_id, self.rewards[request.prompt_id]
        if request.sampling.temperature == 0:
            reward = self.greedy.get(prompt_id, script[0])
        else:
            reward = script[sample_index % len(script)]
        wanted = self.num_tokens(prompt_id, sample_index) if callable(self.num_tokens) else self.num_tokens
        drawn = min(wanted, request.sampling.max_tokens)
        return one_turn(
            prompt_id=prompt_id,
            sample_index=sample_index,
            text=response_text(float(reward)),
            token_ids=tuple(range(drawn)),
            logprobs=(-0.5,) * drawn,
            finish_reason="length" if wanted > drawn else "stop",
            policy_version=self.version,
            generator_id=self.generator_id,
            seconds=_seconds(self.latency, prompt_id, sample_index),
        )


@dataclass
class FakeRewardPool:
    """`ports.RewardPool`: reads the reward out of the response; a text without one gets the verdict `error`."""

    latency: Latency = 0.0
    verdicts: Mapping[tuple[str, int], Verdict] = field(default_factory=dict)
    """Scripted failures by (prompt id, sample index): this verdict, and reward -1."""
    scored: list[ScoredRollout] = field(default_factory=list)
    """Every verdict given, in order."""

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """The scripted verdict, after the latency."""
        await asyncio.sleep(_seconds(self.latency, prompt.prompt_id, rollout.sample_index))
        result = self._judge(rollout)
        self.scored.append(result)
        return result

    def _judge(self, rollout: Rollout) -> ScoredRollout:
        scripted = self.verdicts.get((rollout.prompt_id, rollout.sample_index))
        if scripted is not None:
            return ScoredRollout(rollout, -1.0, scripted, "fake", None, f"scripted {scripted}")
        found = _REWARD.search(rollout.text)
        if found is None:
            return ScoredRollout(rollout, -1.0, "error")
        reward = float(found.group(1))
        verdict: Verdict = "correct" if reward == 1 else "wrong" if reward == -1 else "partial"
        return ScoredRollout(rollout, reward, verdict)


@dataclass
class FakeEnvironment:
    """`ports.Environment` that answers every turn but the last with `observation`, and then lets the verifiers judge.

    In the place of `SingleTurn`: `GeneratorPool(rewards, make_environment=FakeEnvironment, ...)`.
    """

    rewards: RewardPool
    num_turns: int = 2
    observation: Observation = OBSERVATION
    seen: list[Rollout] = field(default_factory=list)
    """Every rollout it was asked about, in order."""

    async def step(self, prompt: Prompt, rollout: Rollout) -> Observation | ScoredRollout:
        """The observation, or at the last turn the verdict."""
        self.seen.append(rollout)
        if len(rollout.turns) < self.num_turns:
            return self.observation
        return await self.rewards.score(prompt, rollout)


@dataclass
class FakeValuePool:
    """`ports.ValuePool`: scripted priors by prompt id."""

    values: Mapping[str, float] = field(default_factory=dict)
    default: float = 0.0
    latency: float = 0.0
    calls: list[tuple[tuple[str, ...], tuple[SupportExample, ...], int, int]] = field(default_factory=list)
    """(prompt ids, support, policy version, seed) of every call."""
    given: Outstanding = field(default_factory=Outstanding)

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One scripted prior per prompt."""
        with self.given("value-0", "prediction"):
            await asyncio.sleep(self.latency)
        self.calls.append((tuple(p.prompt_id for p in prompts), tuple(support), policy_version, seed))
        return [Prior(p.prompt_id, self.values.get(p.prompt_id, self.default), policy_version) for p in prompts]

    async def waiting(self) -> Sequence[PendingCall]:
        """The one actor, while it predicts."""
        return self.given.pending()


@dataclass
class FakeLearner:
    """`ports.LearnerGroup` with one weight, which every step moves by the mean of the samples' first advantages.

    The weight depends on all samples and on the number of steps, so an interrupted and an uninterrupted run can be
    compared.
    """

    weight: float = 0.0
    num_steps: int = 0
    latency: float = 0.0
    pending: list[TrainSample] = field(default_factory=list)
    """Accumulated since the last step."""
    accumulated: list[tuple[TrainSample, ...]] = field(default_factory=list)
    """The argument of every `accumulate`, in order."""
    disagreement: Callable[[int, bool], float] = lambda position, share_prefix: 0.0
    """By how much `logprobs` is off at a position of a response, with and without shared prefixes."""
    given: Outstanding = field(default_factory=Outstanding)

    async def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> list[list[float]]:
        """What the samples carry, and the scripted disagreement."""
        with self.given("learner rank 0", "logprobs"):
            await asyncio.sleep(self.latency)
        sampled = (compress(s.logprobs, s.loss_mask) for s in samples)
        return [[p + self.disagreement(i, share_prefix) for i, p in enumerate(logprobs)] for logprobs in sampled]

    async def accumulate(self, samples: Sequence[TrainSample]) -> None:
        """Keeps the samples."""
        with self.given("learner rank 0", "accumulate"):
            await asyncio.sleep(self.latency)
        self.pending.extend(samples)
        self.accumulated.append(tuple(samples))

    async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Moves the weight, in one update; an empty accumulation moves nothing and still counts as a step."""
        with self.given("learner rank 0", "step"):
            await asyncio.sleep(self.latency)
        firsts = sorted(s.advantages[0] for s in self.pending if s.advantages)
        gradient = sum(firsts) / len(firsts) if firsts else 0.0
        self.weight += gradient
        self.num_steps += 1
        num_samples = len(self.pending)
        self.pending.clear()
        return {"actor/grad_norm": abs(gradient), "actor/num_samples": float(num_samples)}

    async def waiting(self) -> Sequence[PendingCall]:
        """The one rank, while it works."""
        return self.given.pending()

    async def abandon(self) -> None:
        """Forgets the samples."""
        self.pending.clear()

    async def weights(self, version: int) -> Weights:
        """The one weight."""
        return Weights(version, payload=self.weight, num_bytes=8)

    async def save(self, folder: Path) -> None:
        """Writes `learner.json`; refuses between `accumulate` and `step`."""
        if self.pending:
            raise RuntimeError("save() between accumulate() and step() would lose gradients")
        _write_json(folder / "learner.json", {"weight": self.weight, "num_steps": self.num_steps})

    async def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        state = json.loads((folder / "learner.json").read_text())
        self.weight, self.num_steps = state["weight"], state["num_steps"]
        self.pending.clear()

    async def export(self, folder: Path) -> None:
        """Writes `model.json` in place of a model."""
        _write_json(folder / "model.json", {"weight": self.weight})


@dataclass
class FakeTracker:
    """`ports.Tracker` that remembers."""

    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """(step, metrics) of every call."""
    params: dict[str, object] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)
    closed: bool = False

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Remembers a copy."""
        self.metrics.append((step, dict(metrics)))

    def log_params(self, params: Mapping[str, object]) -> None:
        """Remembers."""
        self.params.update(params)

    def log_artifact(self, path: Path) -> None:
        """Remembers the path."""
        self.artifacts.append(path)

    def close(self) -> None:
        """Remembers."""
        self.closed = True
