"""The policy's folder against what a run does with it: refused in one line, before anything heavy starts."""

from pathlib import Path

from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.generation.parts import check_parts
from v05ray.models.huggingface import (
    check_generation,
    check_json,
    check_not_quantised,
    checkpoint_shapes,
    context_length,
    read_object,
    read_settings,
    vocabulary_size,
)


def check_model_folder(config: Config) -> None:
    """Raises ConfigError unless the folder is whole, runs no code of its own, and is computed exactly.

    In this order: JSON files, context, stop tokens, weights (by their headers), outside code, how it can be split, and
    what the learner computes (`learning.checks`, on a small random model). No weights are loaded. A folder whose own
    code is allowed is not looked into here, as that would run the code: the learner checks it when it has loaded the
    model.
    """
    path = config.model.path
    settings = read_settings(path)
    check_json(path)
    check_not_quantised(path)
    check_generation(path)
    context = context_length(settings)
    if context is not None and config.model.max_length > context:
        raise ConfigError(
            f"model.max_length {config.model.max_length} exceeds the model's context of {context} tokens; lower it"
        )
    _check_stop_tokens(config, vocabulary_size(settings))
    shapes = checkpoint_shapes(path)
    if not config.model.trust_remote_code:
        _refuse_own_code(path)
    check_parts(path, config.generators.tensor_parallel)
    if not config.model.trust_remote_code:
        from v05ray.learning.checks import check_structure

        check_structure(
            config.model,
            shapes,
            share_prefix=config.learner.share_prefix,
            checkpointing=config.learner.gradient_checkpointing,
        )


def _check_stop_tokens(config: Config, vocab_size: int | None) -> None:
    """Raises `ConfigError` for a stop token that the model cannot draw: no response would ever end by it."""
    for section in ("sampling", "evaluation"):
        beyond = [one for one in getattr(config, section).stop_token_ids or () if vocab_size and one >= vocab_size]
        if vocab_size and beyond:
            raise ConfigError(
                f"{section}.stop_token_ids has {beyond[0]}, and the model's tokens are 0 to {vocab_size - 1}; take ids "
                f"of this model's own tokenizer, or give the text in {section}.stop"
            )


def _refuse_own_code(path: Path) -> None:
    """Raises `ConfigError` where the model or its tokenizer is known to code in its folder alone.

    Nothing of that code is imported to find out. Some folders still ship code of classes that transformers has by now:
    theirs is neither needed nor run.
    """
    config, tokenizer = read_object(path / "config.json"), read_object(path / "tokenizer_config.json")
    own = {**(config.get("auto_map") or {}), **(tokenizer.get("auto_map") or {})}
    if not own:
        return
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, name = config.get("model_type"), tokenizer.get("tokenizer_class")
    known = {
        "AutoConfig": kind in transformers.CONFIG_MAPPING,
        "AutoModelForCausalLM": kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        # Asked for a class that it does not have, transformers would take another one and say nothing.
        "AutoTokenizer": name is None or hasattr(transformers, name),
    }
    if needed := [f"{auto} ({own[auto]})" for auto in known if auto in own and not known[auto]]:
        raise ConfigError(
            f"model.path {str(path)!r} needs code that it ships for {', '.join(needed)}, which is not run; take a "
            "model that transformers itself knows, or read the code and allow it with model.trust_remote_code=true"
        )
