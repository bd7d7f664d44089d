"""The sections of the roles that have actors: generators, value model, rewards, learner."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from v05ray.config.section import FilePath, Fraction, NamedChoice, Section, Spec, Threads
from v05ray.config.verifier import VerifierSpec
from v05ray.recipes import Aggregation, GroupFilter, KlEstimator


class GeneratorsConfig(Section):
    """vLLM generator actors."""

    count: int = Field(default=1, ge=1)
    """Replicas of the engine that a run starts with."""
    min: int | None = Field(default=None, ge=1)
    """Fewest replicas the run may shrink to; None means `count`."""
    max: int | None = Field(default=None, ge=1)
    """Most replicas the run may grow to; None means `count`."""
    target_backlog_s: float | None = Field(default=None, gt=0)
    """Outstanding work, in seconds of the replicas' time, that is left to those there are; with more of it more are
    asked for, with less some go. Longer than one response takes. None: `v05ray scale` alone changes their number."""
    sustain_s: float = Field(default=10.0, gt=0)
    """Generating time over which the backlog is averaged before it is acted on, in seconds."""
    hold_s: float = Field(default=120.0, gt=0)
    """Generating time for which fewer replicas must have been enough before any goes, in seconds."""
    cooldown_s: float = Field(default=30.0, ge=0)
    """Generating time after a change in which no other follows, in seconds."""
    num_cpus: float = Field(default=1, gt=0)
    """CPUs that a replica reserves, for each of its parts."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs that a replica reserves, for each of its parts; 0 or 1 with `tensor_parallel` > 1."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Devices that one replica's engine is split over, all on one node; it divides the model's attention heads."""
    num_threads: Threads = "auto"
    """OpenMP threads of each part of a replica on CPU. `auto`: on a private cluster all cores that pay, shared by the
    replicas; on a joined one `num_cpus`."""
    max_num_seqs: int = Field(default=128, ge=1)
    """Sequences the engine runs together."""
    kv_cache_mib: int = Field(default=256, ge=16)
    """KV cache of one replica on CPU, in MiB, over all its parts."""
    gpu_memory_utilization: float = Field(default=0.8, gt=0, le=1)
    """Share of GPU memory the engine takes."""
    draw_timeout_s: float = Field(default=600.0, gt=0)
    """A draw that takes longer is taken from its generator and given to another one, in seconds."""
    load_timeout_s: float = Field(default=600.0, gt=0)
    """A generator that takes longer to load new weights, and to prove them, is restarted, in seconds."""
    start_timeout_s: float = Field(default=1800.0, gt=0)
    """A generator whose engine takes longer to start is given up, in seconds."""
    shards: int = Field(default=1, ge=1)
    """Actors that draw and score, each through its share of the generators, under the one scheduler that decides; more
    than 1 where many generators together finish more than a few thousand rollouts per second."""

    @model_validator(mode="after")
    def _shards_have_generators(self) -> "GeneratorsConfig":
        if self.shards > self.count:
            raise ValueError(f"every shard needs a generator: shards is {self.shards}, count {self.count}")
        return self

    @model_validator(mode="after")
    def _parts_have_whole_devices(self) -> "GeneratorsConfig":
        if self.num_gpus > 1 and self.tensor_parallel == 1:
            raise ValueError(
                f"num_gpus is {self.num_gpus:g}, but an engine that is not split runs on one GPU at most; set it to 1 "
                "and raise count, or tensor_parallel for a larger model"
            )
        if self.tensor_parallel > 1 and self.num_gpus not in (0, 1):
            raise ValueError(
                f"num_gpus is {self.num_gpus:g}, for each of {self.tensor_parallel} parts (tensor_parallel): a part has"
                " one whole GPU, or on CPU none; set it to 1 or 0"
            )
        return self

    @property
    def fewest(self) -> int:
        """Replicas the run may shrink to."""
        return self.count if self.min is None else self.min

    @property
    def most(self) -> int:
        """Replicas the run may grow to."""
        return self.count if self.max is None else self.max

    @model_validator(mode="after")
    def _count_is_within(self) -> "GeneratorsConfig":
        if not self.fewest <= self.count <= self.most:
            raise ValueError(f"min <= count <= max must hold: {self.fewest}, {self.count}, {self.most}")
        return self


PROVED_EACH_BELOW = 1_000_000_000
"""Parameters below which every update is proved by default."""
PROVED_SELDOM = 16
"""Of larger models one update in this many is proved by default."""


class WeightsConfig(Section):
    """How new weights go from the learners to the generators, and how their arrival is proved."""

    send: Literal["auto", "delta", "full"] = "auto"
    """What travels: `delta`, only the elements that changed in `model.dtype` (and whole buckets where that would not
    pay), for which rank 0 and every generator hold the weights once more in host memory; or `full`. `auto`: `delta` on
    a cluster in bfloat16, in which small learning rates leave most elements as they are; `full` in float32, in which
    none stays, and on a private cluster, whose processes read the buckets in one shared memory."""
    verify_every: int | None = Field(default=None, ge=0)
    """After one weight update in this many each generator proves what it serves: a checksum of every tensor, and the
    log-probabilities of a few fixed responses (within `model.agreement_nats`). One that differs is named, taken out of
    service and restarted. 0: never. None: each update of models below 1e9 parameters, every 16th of larger ones."""

    def proves(self, version: int, num_parameters: int) -> bool:
        """Whether the update to this version is proved; version 0 is, unless none is."""
        every = self.verify_every
        if every is None:
            every = 1 if num_parameters < PROVED_EACH_BELOW else PROVED_SELDOM
        return every > 0 and version % every == 0


class PublishedValueConfig(Section):
    """Where V0's published weights lie; they are gated, and TabPFN 2.5's are for non-commercial use."""

    checkpoint: FilePath
    """V0's torch file `{"model_state_dict": ...}`: backbone and adapter."""
    backbone: FilePath
    """Hugging Face folder of the embedding model (Qwen3-Embedding-0.6B): config and tokenizer."""
    head: FilePath
    """TabPFN classifier, `.ckpt` or `.safetensors` in TabPFN's own format."""
    num_estimators: int = Field(default=4, ge=1, le=32)
    """Members of the head's ensemble: column orders and class orders whose answers are averaged."""


class ValueConfig(Section):
    """V0, the generalist value model that gives the prior."""

    enabled: bool = True
    """Ask the value model for priors; recipes without a prior switch it off."""
    backend: NamedChoice = Spec(name="auto")
    """`published`, `bundle` (the embedded V0: MiniLM + small head), `base_rate`, or `python` with `path: module:name`
    and `options`; `auto` takes the best of ours that is present, and says which."""
    bundle: FilePath | None = None
    """A bundle made by `v05ray value pretrain`/`train`; None means the one in the package."""
    published: PublishedValueConfig | None = None
    """The published weights, where you have them; `auto` then takes them."""
    pool_size: int = Field(default=1, ge=1)
    """Value actors that a run starts with, and the fewest it has."""
    max_pool_size: int | None = Field(default=None, ge=1)
    """Most value actors that the run may grow to, each newcomer in a place of its own; None means `pool_size`."""
    target_backlog_s: float = Field(default=1.0, gt=0)
    """How long a step's predictions may take the actors there are, in seconds; where they take longer, more are asked
    for, up to `max_pool_size`, and those that are not needed any more go."""
    sustain_s: float = Field(default=1.0, gt=0)
    """Predicting time over which that is averaged before it is acted on, in seconds."""
    hold_s: float = Field(default=20.0, gt=0)
    """Predicting time for which fewer actors must have been enough before any goes, in seconds."""
    cooldown_s: float = Field(default=2.0, ge=0)
    """Predicting time after a change in which no other follows, in seconds."""
    num_cpus: float = Field(default=0.5, gt=0)
    """CPUs one value actor reserves."""
    num_threads: int = Field(default=1, ge=1)
    """Torch threads of one value actor."""
    support_capacity: int = Field(default=512, ge=16)
    """Most recent (prompt, score) pairs kept."""
    support_size: int = Field(default=256, ge=16, le=1024)
    """Pairs sampled to condition the head on."""
    min_support: int = Field(default=32, ge=4)
    """Below this many pairs the prior is the running base rate."""
    recalibrate: bool = True
    """Refit a Platt scaling of V0's answers to the recent groups after each step."""
    fallback: bool = True
    """Take the base rate for the prior while V0's recent skill is not above it."""
    trust_window: int = Field(default=256, ge=64)
    """Recent groups over which skill and calibration are judged."""
    history: Literal["none", "beta"] = "none"
    """`beta` adds a prompt's own discounted results to its prior when it comes again."""
    history_discount: float = Field(default=0.7, ge=0, le=1)
    """What an old result still counts at the prompt's next visit."""
    history_strength: float = Field(default=8.0, gt=0)
    """How many rollouts the value model's own answer weighs beside the history."""

    @property
    def count(self) -> int:
        """Actors that a run starts with."""
        return self.pool_size

    @property
    def fewest(self) -> int:
        """Actors that it may shrink to."""
        return self.pool_size

    @property
    def most(self) -> int:
        """Actors that it may grow to."""
        return self.pool_size if self.max_pool_size is None else self.max_pool_size

    @model_validator(mode="after")
    def _pool_size_is_within(self) -> "ValueConfig":
        if self.most < self.pool_size:
            raise ValueError(f"pool_size <= max_pool_size must hold: {self.pool_size}, {self.most}")
        return self


class RewardsConfig(Section):
    """Verifiers."""

    verifier: VerifierSpec = VerifierSpec(name="math")
    """`math` (math-verify), `exact`, `last_integer`, `reasoning_gym`, `code` (a program that passes tests in a sandbox;
    its limits are in docs/rewards.md), or `python` with `path: module:function`: a reward function in the form of ours,
    TRL's, verl's or slime's, and `scale: zero_one | signed | as_is` for the latter three; see `rewards.functions`. Or a
    list of these, each with a `weight` and, if wanted, a `label`: the reward is the weighted mean of theirs, and the
    first one says what is right."""
    truncated: Literal["wrong", "judge"] | None = None
    """A response cut off at `sampling.max_tokens`: `wrong` unless its answer was finished before (a closed box or tag,
    a whole statement of the answer), or `judge` it as it is. None: `wrong` for `math`, `judge` for the others, each of
    several verifiers by itself."""
    max_error_fraction: float = Field(default=0.3, ge=0, le=1)
    """A step of which more verdicts than this say nothing about the response (`error`, `crash`, `timeout`, `unreadable`
    reference) ends the run before anything is learned from it; 1 never does."""
    overlong_buffer: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Tokens below `sampling.max_tokens` over which the reward that the advantage is computed from falls linearly, by 1
    at the end (DAPO's soft overlong punishment, 2503.14476 Eq. 13); budget, prior and ledger keep the verifier's.
    `auto`: DAPO's share, a fifth of `sampling.max_tokens`. None: no punishment."""
    num_workers: int = Field(default=1, ge=1)
    """Verifier processes; each is killed and replaced when it misses its deadline."""
    max_workers: int | None = Field(default=None, ge=1)
    """Verifier processes that a queue may bring in which verdicts wait for seconds; the extra ones end when idle. They
    share the CPUs of `num_cpus`. None means `num_workers`."""
    deadline_s: float = Field(default=10.0, gt=0)
    """Longest time one verdict may take, in seconds."""
    memory_mib: int | None = Field(default=None, ge=16)
    """Memory a verifier may take beyond what its process starts with, in MiB; None means no limit."""
    num_cpus: float = Field(default=0.25, gt=0)
    """CPUs the reward actor reserves."""

    @property
    def most_workers(self) -> int:
        """Verifier processes that there may be."""
        return self.num_workers if self.max_workers is None else self.max_workers

    @model_validator(mode="after")
    def _workers_are_within(self) -> "RewardsConfig":
        if self.most_workers < self.num_workers:
            raise ValueError(f"num_workers <= max_workers must hold: {self.num_workers}, {self.most_workers}")
        return self


class LearnerConfig(Section):
    """DeepSpeed learner actors and the loss they step on."""

    num_ranks: int = Field(default=1, ge=1)
    """Data-parallel ranks, one actor each."""
    num_cpus: float = Field(default=1, gt=0)
    """CPUs a rank reserves."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs a rank reserves."""
    num_threads: Threads = "auto"
    """Torch threads of one rank on CPU. `auto`: on a private cluster all cores that pay, shared by the ranks; on a
    joined one `num_cpus`."""
    zero_stage: Literal[1, 2, 3] = 1
    """DeepSpeed ZeRO stage."""
    learning_rate: float = Field(default=1e-6, ge=0)
    """AdamW's, after warm-up and before `schedule` lowers it."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of the run (not updates) over which the learning rate rises linearly to `learning_rate`."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The learning rate after warm-up: as it is, or down to `min_rate_fraction` of it along a half cosine or a line. It
    changes between steps of the run: all updates of one have the same rate. Steps that learn nothing do not count."""
    min_rate_fraction: Fraction = 0.0
    """What `cosine` and `linear` end at, as a share of `learning_rate`."""
    schedule_steps: int | None = Field(default=None, ge=1)
    """Steps after which `cosine` and `linear` are at their end; None: `run.num_steps`. Set it where a run may be
    resumed with more steps, which otherwise changes the rates of all that are left."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient clip."""
    policy_loss: NamedChoice = Spec(name="ppo")
    """What the ratio is and how its clip acts: `ppo`, `gspo` or `cispo` (see `losses.policy`), or `python` with
    `path: module:name` and `options`; usually set by the recipe."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio's lower clip is 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio's upper clip is 1 + clip_high."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Most that a token of negative advantage loses, in multiples of it (`ppo` alone; `clip_ratio_c` in verl); None
    means no bound."""
    importance_cap: float | None = Field(default=2.0, gt=0)
    """Truncated importance weight min(pi_learner_old / pi_sampled, cap) per token; None switches it off."""
    aggregation: Aggregation = "token_mean"
    """How token losses add up over a mini-batch; see `losses.aggregation`."""
    mini_batch_prompts: int | None = Field(default=None, ge=1)
    """Most prompts, with all of their rollouts, that one optimiser update learns from; None: the whole batch. A batch
    is split by the run's seed into as few mini-batches as that allows, their sizes one prompt apart at most; see
    `learning.mini_batches`."""
    epochs: int = Field(default=1, ge=1)
    """How often a batch is gone through, in the same mini-batches. Where a batch makes more than one update, it is
    collected before the first (`stream_tokens` has no effect), and the ratio is taken against the learner's weights
    before the first, whose log-probabilities cost one forward pass more."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """What a nat of the policy's entropy earns, per response token, exactly over the whole vocabulary; above 0 samples
    of zero advantage are computed too."""
    truncated: Literal["learn", "leave_out"] = "learn"
    """A response cut off at `sampling.max_tokens`: `learn` from it as from others, or `leave_out` of the loss (DAPO's
    overlong filtering). It stays in its group's baseline, in the budget and in the ledger."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """What a nat of KL from the policy at `model.path` costs; above 0 every rank also holds that policy, frozen, in
    `model.dtype`, and samples of zero advantage are computed too."""
    kl_estimator: KlEstimator = "k3"
    """How the KL is estimated from the drawn tokens; see `losses.kl`."""
    group_filter: GroupFilter = "none"
    """`mixed` leaves groups whose rewards are all equal out of the loss; see `losses.group_filter`."""
    micro_batch_tokens: int = Field(default=4096, ge=64)
    """Most (padded) tokens of one forward and backward pass."""
    share_prefix: bool = True
    """Compute the prompt once for all its responses (block attention mask) instead of once each."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    stream_tokens: int = Field(default=0, ge=0)
    """Learn from sealed groups as soon as this many tokens wait, while others still generate; 0: once, at the end. For
    batches of one update; see `epochs`."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Longest time a collective call of the gang may take, in seconds; every update is one of its own."""
    max_skipped_updates: int = Field(default=5, ge=1)
    """An update whose gradient is not finite is skipped; this many in a row end the run."""

    @property
    def one_update(self) -> bool:
        """Whether a batch is one update whatever its size."""
        return self.mini_batch_prompts is None and self.epochs == 1

    @property
    def passes(self) -> float:
        """Cost of a batch in forward and backward passes over it: the old log-probabilities cost a third of one."""
        return self.epochs + (0 if self.one_update or self.importance_cap is None else 1 / 3)
