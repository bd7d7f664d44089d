"""Whether the learner computes what a model computes: compared with transformers' own logits, before anything trains.

The same checks serve the learner, on the model it has loaded, and `doctor` (and the start of a run), on a random small
model of the same structure: `check_structure` keeps every flag of the config, makes the sizes small, and loads nothing.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from v05ray.config import ModelConfig
from v05ray.errors import ConfigError
from v05ray.lean_imports import lean_transformers
from v05ray.learning import architecture
from v05ray.learning.batching import MicroBatch, collate, make_rows
from v05ray.learning.names import FolderNames
from v05ray.learning.policy import Policy, arguments
from v05ray.types import TrainSample

PROMPT = (3, 5, 7, 11, 13)
RESPONSES = ((2, 4, 6), (12, 4, 6, 8, 9, 14, 3, 2), (12, 4, 5, 10))
"""Token ids that any vocabulary has; the last two share their beginning."""
FLOAT32_NATS = 1e-3
"""Most that a log-probability may be off in float32: rounding is a hundred times smaller."""
MAX_PARAMETERS = 100_000_000
"""A small model that would be larger is not made."""


class _TooLarge(Exception):
    """The sizes that are known here leave the model large."""


_NOT_MADE_SMALL = (_TooLarge, AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What a structure with sizes of its own raises, where those do not fit the small ones."""
_NO_SHARING = "set learner.share_prefix=false"
_SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": 32,
    "vocab_size_per_layer_input": 32,
    "sliding_window": 4,
    "first_k_dense_replace": 1,
    "initializer_range": 0.2,
}
"""Sizes of the small model, where its config has them and they are larger. What is not here keeps its size."""


def checked_policy(
    model: Any, temperature: float, *, share_prefix: bool, checkpointing: bool, cpu_kernels: bool = False
) -> Policy:
    """The policy of a loaded model; raises ConfigError where it would not compute what the model does."""
    reference = _logits(model.eval(), (*PROMPT, *RESPONSES[1]))
    _check_projection(model)
    try:
        policy = Policy(model, temperature, cpu_kernels=cpu_kernels, checkpointing=checkpointing)
    except ValueError as error:
        raise ConfigError(
            f"learner.gradient_checkpointing: {type(model).__name__} has none ({error}); set it to false"
        ) from error
    _check_logits(policy, reference)
    if share_prefix:
        _check_sharing(policy)
    return policy


def check_structure(
    config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], *, share_prefix: bool, checkpointing: bool
) -> bool:
    """Raises ConfigError where the learner cannot compute models of this config exactly. Loads no weights.

    `shapes` are the folder's tensors, which have to be the model's. Compares a random small model of the same
    structure, in float32, with transformers' plainest attention. Returns False for a structure that cannot be made
    small: that is left to the checks on the loaded model.
    """
    settings = _settings(config)
    try:
        with torch.device("meta"):
            whole = _build(settings, config)
    except ConfigError:
        raise
    except _unloadable() as error:
        raise _not_loaded(config, error) from error
    FolderNames(whole, shapes).check()
    try:
        small = _small_model(settings, config)
        reference = copy.deepcopy(small)
        reference.set_attn_implementation("eager")
        wanted = {response: _logprobs(reference, response) for response in RESPONSES}
    except _NOT_MADE_SMALL:
        return False
    policy = checked_policy(small, 1.0, share_prefix=share_prefix, checkpointing=checkpointing)
    name = type(small).__name__
    ways = [(False, f"model.path: {name} is computed wrongly by the learner", "use another model")]
    if share_prefix:
        ways.append((True, f"learner.share_prefix: {name} is computed wrongly where prefixes are shared", _NO_SHARING))
    for share, what, fix in ways:
        got = _policy_logprobs(policy, share_prefix=share)
        error = max((got[response] - wanted[response]).abs().max().item() for response in RESPONSES)
        if not error <= FLOAT32_NATS:
            raise ConfigError(f"{what}: log-probabilities are off by {error:.2g} nats on a small random one; {fix}")
    return True


def _settings(config: ModelConfig) -> Any:
    lean_transformers()
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    except _unloadable() as error:
        raise _not_loaded(config, error) from error


def _build(settings: Any, config: ModelConfig) -> Any:
    """A random float32 model on torch's default device."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(
            settings,
            dtype=torch.float32,
            attn_implementation=architecture.attention_implementation(settings.get_text_config()),
            trust_remote_code=config.trust_remote_code,
        )
    except ValueError as error:  # no causal language model, or no attention that the learner can use
        raise _not_loaded(config, error) from error


def _unloadable() -> tuple[type[Exception], ...]:
    """What transformers raises for a config.json whose values have other types or sizes than its classes know."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        *(one for one in _NOT_MADE_SMALL if one is not _TooLarge),
        ArithmeticError,
        ImportError,
        OSError,
        StrictDataclassError,
    )


def _not_loaded(config: ModelConfig, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, LookupError) or not reason:  # its text is the key alone
        reason = f"{type(error).__name__}: {reason}"
    return ConfigError(
        f"model.path: transformers cannot load {str(config.path)!r}: {reason}; copy the model again, or use another"
    )


def _small_model(settings: Any, config: ModelConfig) -> Any:
    """A random model of the settings' structure and of small sizes; raises `_NOT_MADE_SMALL` where there is none."""
    settings = copy.deepcopy(settings)
    make_small(settings.get_text_config())
    with torch.device("meta"):
        if sum(parameter.numel() for parameter in _build(settings, config).parameters()) > MAX_PARAMETERS:
            raise _TooLarge
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _build(settings, config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases, which start at 1 and 0: a part left out must be seen
                nn.init.normal_(parameter, parameter.detach().mean().item(), 0.2)
    return model.eval()


def make_small(settings: Any) -> None:
    """Changes a config to small sizes of the same structure; heads keep their size, on which rotary tables depend."""
    head_dim = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    grouped = getattr(settings, "num_key_value_heads", None) not in (None, settings.num_attention_heads)
    kinds = list(dict.fromkeys(getattr(settings, "layer_types", None) or ()))
    for name, size in _SMALL.items():
        found = getattr(settings, name, None)
        if isinstance(found, int | float) and not isinstance(found, bool) and found > size:
            setattr(settings, name, size)
    settings.initializer_range = _SMALL["initializer_range"]
    settings.num_attention_heads = 2
    settings.hidden_size = 2 * head_dim
    if hasattr(settings, "num_key_value_heads"):
        settings.num_key_value_heads = 1 if grouped else 2
    if kinds:
        settings.num_hidden_layers = len(kinds)
        settings.layer_types = kinds
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(settings, name, None) is not None:
            setattr(settings, name, 0)


def _batch(responses: Sequence[tuple[int, ...]], *, share_prefix: bool) -> tuple[MicroBatch, list[tuple[int, ...]]]:
    """One batch of responses of one prompt, and the order in which their tokens come."""
    samples = [
        TrainSample(
            "probe", PROMPT, response, (0.0,) * len(response), (1.0,) * len(response), (True,) * len(response), 0
        )
        for response in responses
    ]
    rows = make_rows(samples, 1 << 20, share_prefix=share_prefix)
    return collate(rows, "token_mean"), [sample.response_ids for row in rows for sample in row.samples]


@torch.no_grad()
def _policy_logprobs(policy: Policy, *, share_prefix: bool) -> dict[tuple[int, ...], torch.Tensor]:
    batch, order = _batch(RESPONSES, share_prefix=share_prefix)
    logp_N = policy(*arguments(batch))[0]
    return dict(zip(order, logp_N.split([len(response) for response in order]), strict=True))


@torch.no_grad()
def _logits(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    """[L, V] float32."""
    return model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0].float()


def _logprobs(model: Any, response: Sequence[int]) -> torch.Tensor:
    """[T] of the response's tokens after the prompt."""
    logits = _logits(model, (*PROMPT, *response))[len(PROMPT) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def _check_projection(model: Any) -> None:
    """Refuses models that are not a decoder and a matrix after it."""
    projection = model.get_output_embeddings()
    if not isinstance(projection, nn.Linear) or model.get_decoder() is model:
        raise ConfigError(f"model.path: {type(model).__name__} has no plain output projection; use a model that has")


@torch.no_grad()
def _check_logits(policy: Policy, logits_LV: torch.Tensor) -> None:
    """Refuses models that change their logits in a way that `head.LogitsForm` does not know.

    `logits_LV` are the model's own for the prompt and its second response. Holds in any precision.
    """
    model, response = policy.model, RESPONSES[1]
    ids = torch.tensor([(*PROMPT, *response)])
    hidden_LD = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    head = model.get_output_embeddings()
    ours = head.form.apply_(nn.functional.linear(hidden_LD, head.weight, head.bias).float(), 1.0)
    error, size = (logits_LV - ours).abs().max().item(), logits_LV.abs().max().item()
    if not error <= 2e-2 * size:
        raise ConfigError(
            f"model.path: {type(model).__name__} transforms its logits after the projection (by up to {error:.3g} of "
            f"{size:.3g}) in a way that the learner does not know; use a model that does not"
        )


@torch.no_grad()
def _check_sharing(policy: Policy) -> None:
    """Refuses prefix sharing for models that do not go by the given mask and positions.

    Both tests hold in any precision: a branch must not change with what its sibling says, and must change with its
    position ids.
    """
    name = type(policy.model).__name__
    branch = (12, 4, 6, 8)
    batches = [_batch((sibling, branch), share_prefix=True)[0] for sibling in ((2, 4, 6), (1, 9, 7))]
    ours, other = (policy(*arguments(batch))[0][-len(branch) :] for batch in batches)
    if not torch.allclose(ours, other, rtol=0, atol=1e-3):
        raise ConfigError(
            f"learner.share_prefix: {name} lets responses see one another despite the mask; {_NO_SHARING}"
        )
    in_order = torch.arange(batches[0].position_ids_BL.shape[1]).unsqueeze(0)
    moved = policy(*arguments(replace(batches[0], position_ids_BL=in_order)))[0][-len(branch) :]
    if torch.equal(ours, moved):
        raise ConfigError(f"learner.share_prefix: {name} ignores position ids; {_NO_SHARING}")
