"""A 0.8M-parameter Qwen3 over single characters that can nearly add two digits: made here, with no download.

It is warm-started by supervised learning on every sum and difference of two digits, worded as reasoning-gym's
`chain_sum` words them, half of the weight being on a bad habit: to answer `?`. It is stopped as soon as its sampled
success reaches `success`. So reinforcement learning starts from sparse but real rewards, with something to raise within
a few steps, also on questions that it does not train on (the habit), and more that takes longer (the sums).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from v05ray.errors import ConfigError
from v05ray.models.prepared import prepare_once

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

PREFIX = "State the final answer to the following arithmetic problem: "
"""The words that every question of chain_sum starts with."""

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = (*(chr(code) for code in range(32, 127)), "\n")
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}\n{% endif %}{% endfor %}"
"""The contents alone, one a line: a lone question reads the same with and without the template."""

HABIT, HABIT_SHARE = "?", 0.5
"""The wrong answer that it is taught as well, and the share of the probability that it is taught to give to it."""

MAX_SUCCESS = 0.45
"""Nine tenths of what the habit leaves; more takes long to reach."""

RECIPE = 2
"""Goes up when the same arguments come to mean other weights, so that an old folder is not taken for a new one."""

MAX_TRAINING_STEPS = 200
ADAMW_RATE, MUON_RATE = 3e-3, 2e-2
WARMUP_STEPS = 10


def prepare(target: Path, *, seed: int = 0, tied: bool = True, success: float = 0.35) -> Path:
    """Makes the model folder `target` (float32) unless it is already there; returns it. About 20 s on one thread.

    `success` in [0, 0.45] is the mean probability, over the 200 questions, that a response sampled at temperature 1 is
    exactly the answer; 0 leaves the weights random (for tests of engines, which need no skill). `tied` shares the
    embedding with the output projection. Equal arguments give equal weights on equal machines.

    Raises `ConfigError` for a `success` out of range, or when `target` holds something else.
    """
    if not 0 <= success <= MAX_SUCCESS:
        raise ConfigError(f"success must lie in [0, {MAX_SUCCESS}], got {success}; 0 leaves the weights random")
    made_of = {"model": "tiny-qwen3", "recipe": RECIPE, "seed": seed, "tied": tied, "success": success}
    return prepare_once(Path(target), made_of, lambda folder: _build(folder, seed=seed, tied=tied, success=success))


def questions() -> list[tuple[str, str]]:
    """The 200 (question, answer) pairs of chain_sum with two terms of one digit."""
    digits = range(10)
    return [
        (f"{PREFIX}{a} {sign} {b} =", str(a + b if sign == "+" else a - b))
        for a in digits
        for b in digits
        for sign in "+-"
    ]


def _build(folder: Path, *, seed: int, tied: bool, success: float) -> None:
    import torch

    tokenizer = character_tokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats depend on how they are split, and two busy threads are no faster
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Random weights are drawn wide, so that log-probabilities differ between tokens and a test sees errors.
            model = _model(tied=tied, initializer_range=0.02 if success else 0.1)
            if success:
                _warm_start(model, tokenizer, success)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def character_tokenizer() -> "PreTrainedTokenizerFast":
    """One token for each printable ASCII character and the line break, after the four special ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS + CHARACTERS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _model(*, tied: bool, initializer_range: float) -> "Qwen3ForCausalLM":
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's attention on CPU has a kernel for
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=initializer_range,
        dtype=torch.float32,
    )
    return Qwen3ForCausalLM(config)


def _warm_start(model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast", success: float) -> None:
    """Full-batch training on the answers' tokens until the exact sampled success reaches `success`.

    The success of a question is exp(sum of its answer's log-probabilities, end of sequence included), so it needs no
    sampling. Shapes: Q questions, then H of them with the habit for an answer; S tokens after the common prefix.
    """
    import torch

    prefix, inputs, targets = _training_tensors(tokenizer)
    num_questions, habit_id = len(questions()), tokenizer.encode(HABIT)[0]
    weight = (targets != 0).float()
    # Where an answer begins, the target is the habit with its share; once begun, either has to be ended.
    habit_share = HABIT_SHARE * ((weight.cumsum(1) == 1) * weight)[:num_questions]
    optimisers = _optimisers(model)
    reached = 0.0
    for step in range(MAX_TRAINING_STEPS):
        # The prefix is nine tenths of every question: computed once, and its keys and values shared by all of them.
        cache = model(prefix, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(inputs))
        logprobs_V = model(inputs, past_key_values=cache).logits.log_softmax(-1)
        logprobs = logprobs_V.gather(-1, targets[..., None])[..., 0] * weight
        reached = logprobs[:num_questions].detach().sum(-1).exp().mean().item()
        if reached >= success:
            return
        answers, habits = logprobs[:num_questions], logprobs_V[:num_questions, :, habit_id]
        total = ((1 - habit_share) * answers + habit_share * habits).sum() + logprobs[num_questions:].sum()
        model.zero_grad()
        (-total / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in optimisers:
            optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARMUP_STEPS)
            optimiser.step()
    raise ConfigError(
        f"the tiny model reached a success of {reached:.3f} in {MAX_TRAINING_STEPS} steps, asked for {success};"
        " ask for less or take another seed"
    )


def _optimisers(model: "Qwen3ForCausalLM") -> "list[tuple[torch.optim.Optimizer, float]]":
    """Muon for the layers' matrices, AdamW for the rest, each with its rate: a third of the steps of AdamW alone."""
    import torch

    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if hidden else rest).append(parameter)
    return [
        (torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.0), MUON_RATE),
        (torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0), ADAMW_RATE),
    ]


def _training_tensors(tokenizer: "PreTrainedTokenizerFast") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Prefix ids [1, P], and per row: inputs [Q + H, S] after the prefix, and targets [Q + H, S] (0 where none).

    The first Q rows are the questions with their answers; in H more, every tenth of them, the habit is given and the
    end alone is the target.
    """
    import torch

    prefix = torch.tensor([tokenizer.encode(PREFIX)])
    end = [tokenizer.eos_token_id]
    asked = [tokenizer.encode(question)[prefix.shape[1] :] for question, _ in questions()]
    said = [tokenizer.encode(answer) + end for _, answer in questions()]
    rows = [(q + a[:-1], [0] * (len(q) - 1) + a) for q, a in zip(asked, said, strict=True)]
    rows += [(q + tokenizer.encode(HABIT), [0] * len(q) + end) for q in asked[::10]]
    length = max(len(inputs) for inputs, _ in rows)
    # Right padding needs no mask: attention is causal, and padded positions have no target.
    both = torch.tensor([[ids + [0] * (length - len(ids)) for ids in row] for row in rows])
    return prefix, both[:, 0], both[:, 1]
