"""The sections of the run as a whole: what it trains on, how it draws, what it records, where it runs."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from v05ray.config.section import FilePath, Fraction, Section, Spec, Text
from v05ray.config.verifier import VerifierSpec
from v05ray.types import Sampling

_MOST_NAME_CHARACTERS = 200
"""A file name may have 255, and numbers and endings are put behind this one."""


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(
            "a name is made of letters a to z, digits, '.', '_' and '-', and begins with none of '.' and '-'"
        )
    if len(name) > _MOST_NAME_CHARACTERS:
        raise ValueError(f"a name has {_MOST_NAME_CHARACTERS} characters at most, this one {len(name)}")
    return name


class RunConfig(Section):
    """The run as a whole."""

    name: Annotated[str, AfterValidator(_check_name)] = "v05"
    """Name of the run's folder under `output_dir`, and of the MLflow run: letters a to z, digits, `.`, `_` and `-`."""
    output_dir: FilePath = Path("runs")
    """Where run folders go."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Every random choice of the run derives from it."""
    num_steps: int = Field(default=30, ge=1)
    """Optimiser steps."""
    prompts_per_step: int = Field(default=32, ge=1, le=1_000_000)
    """Batch size B, in prompts."""
    checkpoint_every: int = Field(default=10, ge=0)
    """Steps between checkpoints; 0 means only at the end and on interruption."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Older checkpoints are deleted."""
    max_restarts: int = Field(default=3, ge=0)
    """How often in a row the actors are restarted and the newest checkpoint loaded, after a learner rank, the
    scheduler or a node was lost or stopped responding; counted from 0 again once a further step is done."""
    grace_s: float = Field(default=240.0, gt=0)
    """After SIGTERM everything is saved within this many seconds: the step in progress is finished if it fits, else
    given up and the last whole one checkpointed. Keep it below what the platform grants before it kills."""
    silence_s: float = Field(default=60.0, gt=0)
    """Seconds without progress after which the run says what it waits for."""
    stall_s: float = Field(default=1800.0, gt=0)
    """Seconds without progress after which a stage counts as lost: the actors are restarted (`max_restarts`)."""


class ModelConfig(Section):
    """The policy to start from."""

    path: FilePath
    """Hugging Face folder (config, safetensors, tokenizer) of the policy to start from."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of generation and of the learner's forward and backward pass; the optimiser keeps float32 masters.
    `auto`: bfloat16 where the machine computes it, by a measurement at the start, else float32."""
    max_length: int = Field(default=512, ge=16)
    """Longest prompt + response, in tokens."""
    trust_remote_code: bool = False
    """Run code that the model folder ships."""
    agreement_nats: float | None = Field(default=None, gt=0)
    """Before a run trains, learner and engine compute the log-probabilities of a few rollouts; where they differ by
    more than this, in nats a token on average, the run stops. None: .001 in float32, .1 in bfloat16."""


class SourceSpec(Spec):
    """One source of prompts: its kind and that kind's options, and what holds for every kind.

    `{name: reasoning_gym, task: gcd, size: 500, weight: 2, label: gcd_small}`
    """

    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the prompts relative to the other sources', given for all of them or for none. Without: in training the
    number of a source's prompts, in evaluation the same for each."""
    label: str | None = Field(default=None, min_length=1)
    """What metrics call the source's prompts; None keeps the name of the task, of the record
    (`data_source`) or of the file."""
    verifier: VerifierSpec | None = None
    """Judges the source's responses instead of `rewards.verifier`: one, or a list as there."""

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As it was written: a config saved before these fields existed is still equal.
        unset = [name for name in ("weight", "label", "verifier") if getattr(self, name) is None]
        return {name: value for name, value in serialize(self).items() if name not in unset}


def _as_list(value: Any) -> Any:
    if value is None:
        return None
    listed = value if isinstance(value, list | tuple) else [value]
    return [one.model_dump() if isinstance(one, Spec) else one for one in listed]


def _as_written(sources: tuple[SourceSpec, ...]) -> Any:
    dumped = [source.model_dump(mode="json") for source in sources]
    return dumped[0] if len(dumped) == 1 else dumped


Sources = Annotated[
    tuple[SourceSpec, ...], Field(min_length=1), BeforeValidator(_as_list), PlainSerializer(_as_written)
]
"""One source or a list of them; one is a list of one."""


class DataConfig(Section):
    """Prompts and how they are put to the policy."""

    train: Sources
    """Where prompts come from: one source or a list of them, of any kinds (`reasoning_gym`, `jsonl`, `parquet`,
    `huggingface`), each with its options and, if wanted, `weight`, `label` and `verifier`."""
    eval: Sources | None = None
    """Held-out prompts, disjoint from the training ones, of one source or several; None switches evaluation off."""
    system_prompt: str | None = None
    """System message put before each question; refused for rows with one of their own, and for templates that know no
    system role (Gemma's, older ones of Mistral), for which `prefix` is the place."""
    prefix: Text = ""
    """Put before each question (the last user message), such as `Solve this problem.\\n\\n`"""
    suffix: Text = ""
    """Appended to each question, such as ` Answer with just the number.`"""
    chat_template: bool = True
    """Use the tokenizer's chat template; otherwise the question is given as it is, between `prefix` and `suffix`."""
    chat_template_file: FilePath | None = None
    """A Jinja chat template used instead of the tokenizer's, in the form that Hugging Face's tokenizers take."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the chat template is given by name, such as `{enable_thinking: false}` for Qwen3's; a name that the
    template does not use is refused."""
    assistant_prefix: Text = ""
    """Begins each of the policy's responses, such as `<think>\\n`: part of the prompt, not of what is judged."""
    shuffle: bool = True
    """Reshuffle the training prompts each epoch, by `run.seed`."""
    skip_bad_rows: int = Field(default=0, ge=0)
    """How many unusable rows may be skipped (and counted) before loading fails."""


MOST_STOPS = 64
"""Stop texts, or stop tokens: each text is looked for at every token of every response."""
_MOST_STOP_CHARACTERS = 256


def _stop_texts(value: Any) -> Any:
    if value is None:
        return None
    texts = value if isinstance(value, list | tuple) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{text!r:.80} is no text; give a text or a list of texts, in quotes")
        if text == "":
            raise ValueError("an empty text would end every response at once; leave it out ([] for no stop texts)")
        if len(text) > _MOST_STOP_CHARACTERS:
            raise ValueError(f"a stop text has {_MOST_STOP_CHARACTERS} characters at most, one has {len(text)}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"the stop text {text!r} holds half of a character; no response has that, write it whole")
    return _few(tuple(texts))


def _stop_token_ids(value: Any) -> Any:
    if value is None:
        return None
    ids = value if isinstance(value, list | tuple) else [value]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ValueError(f"{one!r:.80} is no token id, a whole number from 0 on; a text belongs into `stop`")
    return _few(tuple(ids))


def _few(stops: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(stops) > MOST_STOPS:
        raise ValueError(
            f"{len(stops)} are more than {MOST_STOPS}, the most there may be; keep those that responses come to"
        )
    return stops


StopTexts = Annotated[tuple[str, ...] | str | None, BeforeValidator(_stop_texts)]
"""One text or a list of them; a tuple once it is checked."""
StopTokenIds = Annotated[tuple[int, ...] | int | None, BeforeValidator(_stop_token_ids)]
"""One token id or a list of them; a tuple once it is checked."""


def _listed(stops: Any) -> tuple[Any, ...]:
    return () if stops is None else tuple(stops)


class SamplingConfig(Section):
    """How training rollouts are drawn."""

    temperature: float = Field(default=1.0, gt=0, le=5)
    """Of training rollouts, and of sampled evaluation where that has none of its own."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass."""
    max_tokens: int = Field(default=24, ge=1)
    """Longest response, in tokens."""
    stop: StopTexts = None
    """Ends a response where it holds this text, or one of these: `["</answer>", "\\n\\nQuestion:"]`."""
    stop_token_ids: StopTokenIds = None
    """Ends a response with this token, or one of these, besides the model's own end-of-sequence tokens."""
    include_stop: bool = False
    """Whether verifiers (also in evaluation) and the ledger get a response with the stop text that ended it. What is
    learned from has it in any case."""

    def draws(self) -> Sampling:
        """How training rollouts are drawn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop_token_ids=_listed(self.stop_token_ids),
            stop=_listed(self.stop),
            include_stop=self.include_stop,
        )


class BudgetConfig(Section):
    """How many rollouts each prompt gets, and when the batch ends."""

    rule: Spec = Spec(name="osla")
    """How many rollouts a prompt gets: `osla`, `fixed`, ... with the rule's options."""
    halt_fraction: Fraction = 1 / 16
    """No prompt is topped up once fewer than this share of the batch is open; 0 switches the halt off."""
    dispatch_multiple: int = Field(default=1, ge=1)
    """A top-up is padded to a multiple of this, within n_max."""
    mode: Literal["async", "rounds"] = "async"
    """Judge each prompt when its last outstanding rollout is scored, or all together at a barrier (the paper)."""
    on_halt: Literal["drain", "abort"] = "drain"
    """What happens to rollouts in flight at the halt. `abort` favours short answers, and is counted."""


class EvaluationConfig(Section):
    """Held-out evaluation."""

    num_prompts: int = Field(default=200, ge=1)
    """Held-out prompts used, taken from the start of `data.eval`; of several sources each gives its share by weight
    (the same number where no weights are given), and one that has fewer leaves the rest to the others."""
    every: int = Field(default=10, ge=0)
    """Steps between evaluations; 0 means only at start and end."""
    samples_per_prompt: int = Field(default=1, ge=0)
    """k of mean@k, pass@k, maj@k; 0 means greedy alone."""
    temperature: float | None = Field(default=None, gt=0, le=5)
    """Of the sampled responses; None: `sampling.temperature`."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus mass of the sampled responses; None: `sampling.top_p`."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest response, greedy or sampled, in tokens; None: `sampling.max_tokens`."""
    stop: StopTexts = None
    """Texts that end a response, greedy or sampled; None: `sampling.stop`, `[]`: none."""
    stop_token_ids: StopTokenIds = None
    """Tokens that end a response, greedy or sampled; None: `sampling.stop_token_ids`, `[]`: the model's own alone."""

    def draws_with(self, training: SamplingConfig) -> Sampling:
        """How the sampled responses are drawn: what is not given here is that of training."""
        own = ("temperature", "top_p", "max_tokens", "stop", "stop_token_ids")
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        return training.model_copy(update=given).draws()


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = None
    """MLflow tracking URI; None means a SQLite file in the output folder."""
    experiment: str = Field(default="v05ray", min_length=1)
    """MLflow experiment."""
    num_sample_rollouts: int = Field(default=8, ge=0)
    """Rollouts per checkpointed step kept as an artifact to read."""


class ClusterConfig(Section):
    """The Ray cluster to run on."""

    address: str | None = None
    """Ray cluster to join (`auto`, `host:port`); None starts a private local one."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs of the private local cluster; None means all of the machine."""
    object_store_mib: int | None = Field(default=None, ge=128)
    """Object store of the private local cluster, in MiB; None means room for two versions of the weights."""
    wait_s: float = Field(default=600.0, ge=0)
    """How long to wait for resources that an autoscaler may still bring, in seconds."""
    node_types: bool = False
    """Also ask for a little of the resource `generator`, `learner` or `value`, of which every node type in `clusters/`
    offers 1 of its own name: so an autoscaler brings the kind of node that is meant."""
    colocate: bool = False
    """Every generator replica shares its device with a learner rank, replica 0 with rank 0 and so on: as many replicas
    as ranks or fewer, and always as many. Their GPU shares add up to 1 at most, such as 0.4 and 0.6."""
    temp_dir: FilePath | None = None
    """Ray's own files of the private local cluster; None means a short folder under the system's temporary one."""
