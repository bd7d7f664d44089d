"""Every record that crosses a process, in the order in which they flow.

All are frozen and complete when made; a new stage is a new type. Rewards, priors and scores live on [-1, 1] everywhere;
a success probability p in [0, 1] is converted once, at the border of the value model (V = 2p - 1).

Legend of shapes: P prompt tokens, T response tokens (all that follow the prompt), S tokens that the policy sampled in
one turn, O tokens of one observation, K rollouts of one prompt. With one turn, T = S.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

StopReason = Literal["accepted", "target_reached", "cap", "halted", "fixed"]
"""Why a prompt was sealed: the evidence agrees with the prior | the target budget is drawn | n_max is drawn |
the batch's global halt refused a wish for more | the rule has a fixed budget."""

FinishReason = Literal["stop", "length", "abort"]
Verdict = Literal["correct", "wrong", "partial", "timeout", "crash", "error", "unreadable"]
"""What the verifier said, or why it could not say: timeout, crash, error and unreadable (the reference answer is none)
carry reward -1 and are counted as failures."""
FAILURES: tuple[Verdict, ...] = ("timeout", "crash", "error", "unreadable")
"""Verdicts that say nothing about the response."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One task, ready to generate from: templated, tokenised and known to fit the context."""

    prompt_id: str
    text: str
    """The question as a person wrote it, without template: what the value model embeds."""
    token_ids: tuple[int, ...]
    """[P] the templated prompt, as the generator gets it."""
    answer: str
    """The reference answer a verifier compares with; may be empty if `metadata` holds what the verifier needs."""
    source: str
    """Name of the data source, such as `chain_sum`; metrics are split by it."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What the source's own verifier needs besides the answer (JSON values only)."""


@dataclass(frozen=True, slots=True)
class SupportExample:
    """One pair of the support buffer: how well a recent policy did on a prompt."""

    prompt_id: str
    text: str
    score: float
    """Mean reward in [-1, 1] of the prompt's group."""
    policy_version: int


@dataclass(frozen=True, slots=True)
class Prior:
    """The value model's expectation of a prompt's mean reward, made before any rollout."""

    prompt_id: str
    value: float
    """In [-1, 1]."""
    policy_version: int
    origin: str = "v0"
    """`v0`, or `base_rate` while the support is too small or the model is not to be trusted."""
    raw: float | None = None
    """The value pool's own answer in [-1, 1], of which `value` was made (see `priors`); None before that."""
    raw_origin: str | None = None
    """Of that answer: `v0`, or `base_rate` where the model was not asked."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A decision to draw `num_rollouts` (>= 1) more for one prompt."""

    prompt_id: str
    num_rollouts: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A decision to seal one prompt's group."""

    prompt_id: str
    reason: StopReason


@dataclass(frozen=True, slots=True)
class Decision:
    """An action of the budget machine with the evidence it rests on; written to the ledger as it is."""

    action: Draw | Stop
    num_scored: int
    mean: float | None
    """Mean reward of the scored rollouts; None before the first (the cold start)."""
    prior: float | None
    bias_squared: float | None
    """b2 = max(0, (mean - prior)^2 - 1/k) (Eq. 7); None where the rule does not use it."""
    target: int | None
    """Total number of rollouts the rule wants; None where the rule has no target."""
    open_prompts: int
    """Prompts of the batch not yet sealed when this was decided, this one included."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a rollout is drawn."""

    temperature: float
    """0 means greedy."""
    top_p: float
    max_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a response besides the model's own end-of-sequence tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, wherever they begin and end within its tokens."""
    include_stop: bool = False
    """Whether `Rollout.text` keeps the stop text that ended it."""


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """Work for one generator: some rollouts of one prompt, each with its own index and seed."""

    prompt_id: str
    token_ids: tuple[int, ...]
    """[P]"""
    sample_indices: tuple[int, ...]
    seeds: tuple[int, ...]
    """One per sample index; see `seeding.rollout_seed`."""
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment answers to a turn; the policy continues after it.

    Observation("<user>8 is wrong, try again.<assistant>", (7, 31, 12, 9, 40, 8))
    """

    text: str
    """For people: the ledger keeps it, and no verifier reads it."""
    token_ids: tuple[int, ...]
    """[O] appended to the context as they are, so with what the chat template puts around a message and before the
    next answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy sampled in one go, with what it was really drawn with, and what it had been shown before.

    The second turn of a rollout, an observation of 6 tokens and a response of 2:

        Turn("9", (24, 2), (-0.3, -0.01), "stop", policy_version=3, generator_id="generator-0", seconds=0.4,
             observation=Observation("<user>8 is wrong, try again.<assistant>", (7, 31, 12, 9, 40, 8)))
    """

    text: str
    """Without special tokens, and without the stop text that ended it (unless `Sampling.include_stop`)."""
    token_ids: tuple[int, ...]
    """[S] all that were sampled and are learned from: with the end-of-sequence or stop token, or with the token that
    completed a stop text, where one of them ended the turn."""
    logprobs: tuple[float, ...]
    """[S] natural log-probabilities under the sampling distribution (temperature included)."""
    finish_reason: FinishReason
    policy_version: int
    generator_id: str
    seconds: float
    """From the generator's acceptance to the last token."""
    observation: Observation | None = None
    """What came between the turn before and this one; None in the first turn, which answers the prompt."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sample of a prompt: the policy's turns and what the environment answered to all but the last.

    Its sequence is the prompt, then turn after turn, each with its observation in front. As two turns:

        rollout = Rollout("aime-17", 0, (Turn("8", (23, 2), ...), Turn("9", (24, 2), ..., Observation("wrong", (7,)))))
        rollout.token_ids == (23, 2, 7, 24, 2)
        rollout.loss_mask == (True, True, False, True, True)
    """

    prompt_id: str
    sample_index: int
    turns: tuple[Turn, ...]
    """One or more, in order."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """[T] all that follow the prompt, observations included."""
        return tuple(chain.from_iterable((*_observed(turn), *turn.token_ids) for turn in self.turns))

    @property
    def logprobs(self) -> tuple[float, ...]:
        """[T] log-probabilities of `token_ids` as they were sampled; 0 for the tokens of observations."""
        return tuple(chain.from_iterable((*(0.0,) * len(_observed(turn)), *turn.logprobs) for turn in self.turns))

    @property
    def loss_mask(self) -> tuple[bool, ...]:
        """[T] True where the policy sampled the token, False where the environment put it."""
        masks = ((False,) * len(_observed(turn)) + (True,) * len(turn.token_ids) for turn in self.turns)
        return tuple(chain.from_iterable(masks))

    @property
    def num_tokens(self) -> int:
        """Tokens that the policy sampled, over all turns: what a rollout's length is everywhere."""
        return sum(len(turn.token_ids) for turn in self.turns)

    @property
    def text(self) -> str:
        """The last turn's: the answer, which verifiers read."""
        return self.turns[-1].text

    @property
    def finish_reason(self) -> FinishReason:
        """The last turn's."""
        return self.turns[-1].finish_reason

    @property
    def generator_id(self) -> str:
        """The last turn's: its cache holds the whole context."""
        return self.turns[-1].generator_id

    @property
    def policy_version(self) -> int:
        """The oldest of the turns'."""
        return min(turn.policy_version for turn in self.turns)

    @property
    def seconds(self) -> float:
        """Over all turns, without the environment's own."""
        return sum(turn.seconds for turn in self.turns)

    def then(self, observation: Observation, drawn: "Rollout") -> "Rollout":
        """This rollout with one more turn: `drawn` is what a generator sampled after the observation."""
        (turn,) = drawn.turns
        return replace(self, turns=(*self.turns, replace(turn, observation=observation)))


def _observed(turn: Turn) -> tuple[int, ...]:
    return turn.observation.token_ids if turn.observation else ()


@dataclass(frozen=True, slots=True)
class ComponentScore:
    """What one of several verifiers gave: `ComponentScore("layout", -1.0, "wrong")`."""

    label: str
    reward: float
    """In [-1, 1], before its weight; -1 where the verifier failed."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A rollout with its verdict."""

    rollout: Rollout
    reward: float
    """In [-1, 1]; of several verifiers their weighted mean."""
    verdict: Verdict
    """Of several verifiers the first one's, but the failure of any."""
    verifier: str = ""
    """Name of the verifier that judged; of several their labels, `math + layout`."""
    extracted: str | None = None
    """The answer as the verifier read it from the response; None where it found none, or does not say."""
    message: str = ""
    """Why there is no verdict, of a failure; empty otherwise."""
    components: tuple[ComponentScore, ...] = ()
    """Of several verifiers each one's, in their order; after a hang or crash the one that was at work alone."""


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """A sealed prompt: everything that was drawn for it, and why no more was."""

    prompt: Prompt
    prior: Prior | None
    scored: tuple[ScoredRollout, ...]
    """[K], ordered by sample index."""
    stop: Stop
    decisions: tuple[Decision, ...]
    greedy: ScoredRollout | None = None
    """One temperature-0 rollout, where the estimator needs it; no part of the group's mean."""

    @property
    def rewards(self) -> tuple[float, ...]:
        """[K] the rewards in sample order."""
        return tuple(s.reward for s in self.scored)


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One sequence for the learner; per-token fields are over the response only.

    Of a rollout of two turns with an observation of one token between them:

        TrainSample("aime-17", prompt_ids=(5, 6), response_ids=(23, 2, 7, 24, 2), logprobs=(-.9, 0., 0., -.3, -.01),
                    advantages=(.5,) * 5, loss_mask=(True, True, False, True, True), policy_version=3)
    """

    prompt_id: str
    prompt_ids: tuple[int, ...]
    """[P]; samples of one prompt share it, and the learner may compute it once for all of them."""
    response_ids: tuple[int, ...]
    """[T]"""
    logprobs: tuple[float, ...]
    """[T] log-probabilities that the generator sampled with."""
    advantages: tuple[float, ...]
    """[T]"""
    loss_mask: tuple[bool, ...]
    """[T] True where the policy sampled the token. The others are context: they count in no loss, mean or length."""
    policy_version: int

    @property
    def num_sampled(self) -> int:
        """Tokens that the policy sampled: the sample's length in aggregation and metrics."""
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did, in metric names of the field (`actor/grad_norm`, `timing_s/gen`, `v05/...`)."""

    step: int
    policy_version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ProbeSequence:
    """A response whose log-probabilities prove a weight update: `ProbeSequence((1, 17, 9), (4, 2))`."""

    prompt_ids: tuple[int, ...]
    """[P]"""
    response_ids: tuple[int, ...]
    """[T]"""


@dataclass(frozen=True, slots=True)
class WeightsProof:
    """One version of the weights, as the learners hold it or as a generator serves it."""

    checksums: Mapping[str, int | None]
    """Of every tensor, by its name in the model folder (`weights.checksum`); None where an engine cannot be read."""
    logprobs: tuple[tuple[float, ...], ...] = ()
    """[T] of each probe sequence's response, in nats, at temperature 1."""
