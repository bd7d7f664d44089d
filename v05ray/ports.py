"""What the training loop and the scheduler ask of the outside, as Protocols.

`training/driver.py`, `evaluation/evaluate.py` and the scheduler are written against these alone, so they run unchanged
on Ray actors (`actors/`) and on in-process fakes (the tests). All work is asynchronous; a method that only reads is
synchronous.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from v05ray.errors import RunError
from v05ray.types import (
    DrawRequest,
    Observation,
    Prior,
    ProbeSequence,
    Prompt,
    Rollout,
    RolloutGroup,
    Sampling,
    ScoredRollout,
    SupportExample,
    TrainSample,
    WeightsProof,
)


@dataclass(frozen=True, slots=True)
class Weights:
    """One whole version of the policy's weights, on its way from the learners to the generators.

    `payload` belongs to the transport (object references, a path, a communicator); no other part looks inside.
    """

    version: int
    payload: Any
    num_bytes: int
    """What was put on its way for this version; a newcomer may have to fetch more."""
    share_changed: float | None = None
    """Share of the elements that differ from the version before, in [0, 1]; None where that was not compared."""
    proof: WeightsProof | None = None
    """What every generator has to show of this version; None where it is not asked for a proof."""
    probe: tuple[ProbeSequence, ...] = ()
    """What the proof's log-probabilities are of."""
    tolerance_nats: float = 0.0
    """Largest mean difference of these, in nats a token."""


@dataclass(frozen=True, slots=True)
class Served:
    """A generator's answer to a weight update."""

    version: int
    proof: WeightsProof | None = None
    """Of what it serves now; None where the update asked for none."""
    num_bytes: int = 0
    """What it fetched."""
    load_s: float = 0.0
    """Seconds to fetch the weights and to put them in place."""
    proof_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What a weight update took, and what came of its proofs; newcomers since the update before are counted too."""

    served: tuple[Served, ...] = ()
    """Every answer of a generator that serves the version."""
    barred: tuple[str, ...] = ()
    """One sentence for each generator that serves something else and was taken out of service."""


class GeneratorLost(RuntimeError):
    """The generator that had a draw is gone; the draw has to be done by another one."""

    def __init__(self, message: str, *, no_room: bool = False) -> None:
        """`no_room`: it was lost because the object store and the disk behind it had no room for its weights."""
        super().__init__(message)
        self.no_room = no_room


class RoleLost(RunError):
    """A role that the run needs is gone or does not respond; names it, the stage and what it worked on.

    The run has to resume from its newest checkpoint with fresh actors.
    """


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call of an actor that has not returned: `PendingCall("generator-1", "draw", 61.0, 4, "p17")`."""

    actor: str
    """`generator-1`, `learner rank 0`, `the reward actor`."""
    what: str
    """`draw`, `verdict`, `load of version 3`."""
    seconds: float
    """Since the call; of several, since the first."""
    count: int = 1
    prompt_id: str | None = None
    """None for work that is not of one prompt."""


class Generator(Protocol):
    """One replica of the inference engine."""

    @property
    def generator_id(self) -> str: ...

    async def ready(self) -> None:
        """Returns once the engine can take work (also after a restart); raises `GeneratorLost` if it never will."""
        ...

    async def restart(self) -> None:
        """Ends the replica's process, however it is, and starts a fresh one (which serves version 0)."""
        ...

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """All rollouts of the request, each of one turn, in the order of its sample indices; raises `GeneratorLost` if
        it died."""
        ...

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's unfinished rollouts; their callers get what there is."""
        ...

    async def load_weights(self, weights: Weights) -> Served:
        """Serve a new version; answers once every tensor is in place, with a proof where `weights` asks for one."""
        ...


class RewardPool(Protocol):
    """Verifiers in processes of their own."""

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """Never raises for a bad answer or a bad verifier: those come back as verdicts with reward -1."""
        ...


class Environment(Protocol):
    """Answers the policy within a rollout, and ends the rollout with its verdict.

    One that gives a second try; `self.rewards` is a `RewardPool`, and `self.encode` puts a message into the template:

        async def step(self, prompt, rollout):
            scored = await self.rewards.score(prompt, rollout)
            if scored.verdict == "correct" or len(rollout.turns) == 2:
                return scored
            return Observation("Wrong, try again.", self.encode("Wrong, try again."))
    """

    async def step(self, prompt: Prompt, rollout: Rollout) -> Observation | ScoredRollout:
        """After each turn: what the policy sees next, or the verdict on `rollout`, which ends it.

        Depends on the prompt and the turns alone: where all generators of a scheduler shard are lost, a rollout is
        drawn again from its first turn. Ends a rollout before its context fills `model.max_length`: the engine refuses
        a longer one. What it raises ends the run; its own failures are verdicts (`types.FAILURES`) with reward -1.
        """
        ...


class ValuePool(Protocol):
    """The value model."""

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order, given the support pairs to condition on."""
        ...

    async def waiting(self) -> Sequence[PendingCall]:
        """Which actor has not answered yet."""
        ...


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One step's work for the scheduler."""

    step: int
    policy_version: int
    prompts: tuple[Prompt, ...]
    priors: Mapping[str, Prior]
    """By prompt id; empty for algorithms without a value model."""
    sampling: Sampling
    greedy_reward: bool = False
    """Also draw one greedy rollout per prompt (for estimators that need it)."""


class Scheduler(Protocol):
    """Rollouts for a batch, budgeted by the batch machine."""

    def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups, each as soon as it is sealed."""
        ...

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts of one turn, outside any budget (evaluation), on whichever generator has least to do."""
        ...

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves this version from now on, or serves nothing."""
        ...

    async def status(self) -> dict[str, float]:
        """Counters for metrics: generators ready, draws lost and redone, what the budget rule has learned."""
        ...

    async def waiting(self) -> Sequence[PendingCall]:
        """Which generator has not answered a draw or a weight update, and which verdicts are out; also while a batch
        runs."""
        ...

    async def state_dict(self) -> dict[str, Any]:
        """The budget rule's memory, JSON-able, for the checkpoint."""
        ...

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        ...


class LearnerGroup(Protocol):
    """The gang of ranks that owns the policy's master weights and its optimiser."""

    async def accumulate(self, samples: Sequence[TrainSample]) -> None:
        """Forward and backward, where a batch is one update: gradients add up until `step`. Else kept for `step`."""
        ...

    async def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> list[list[float]]:
        """Log-probabilities of each sample's tokens that `loss_mask` marks, under the current weights; changes nothing.

        At `temperature`, or at that of sampling.
        """
        ...

    async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The optimiser's update over everything accumulated, or several; returns the `actor/...` metrics.

        Calls `updated` after each update but the last: a sign of progress where a batch takes long.
        """
        ...

    async def abandon(self) -> None:
        """No step will be made of what was accumulated since the last one; only `save` and `export` may follow."""
        ...

    async def weights(self, version: int) -> Weights:
        """The current weights, ready for `Generator.load_weights`."""
        ...

    async def save(self, folder: Path) -> None:
        """Model, optimiser, schedule and random state of every rank into `folder`."""
        ...

    async def load(self, folder: Path) -> None:
        """What `save` wrote."""
        ...

    async def export(self, folder: Path) -> None:
        """The policy as a Hugging Face folder (safetensors, config, tokenizer)."""
        ...

    async def waiting(self) -> Sequence[PendingCall]:
        """Which rank has not answered yet, and what it was asked."""
        ...


class Tracker(Protocol):
    """Experiment tracking; never makes the training wait."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def log_artifact(self, path: Path) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Roles:
    """Who does a run's work."""

    scheduler: Scheduler
    rewards: RewardPool
    learners: LearnerGroup
    tracker: Tracker
    values: ValuePool | None = None
    """None for algorithms without a prior."""
    memory_mib: Callable[[], Mapping[str, float]] = dict
    """Reads the resident memory of each actor, by role, as last measured."""
