"""A tokenizer of one token a character, with a chat template that can be read."""

from collections.abc import Sequence
from typing import Any


class CharTokenizer:
    """As much of Hugging Face's interface as prompts need; token 1 is the special one that raw texts begin with."""

    def __init__(self, chat_template: str | None = "readable") -> None:
        self.chat_template = chat_template

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return text + "<assistant>" if add_generation_prompt else text

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool) -> dict[str, Any]:
        start = [1] if add_special_tokens else []
        return {"input_ids": [start + [ord(c) for c in text] for text in texts]}


def real_tokenizer(chat_template: str | None) -> Any:
    """One of `transformers`, of one token a character, with `<s>` and `<|im_start|>` as control tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(c): c for c in range(128)} | {"<s>": 128, "<|im_start|>": 129}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "!"]})
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = chat_template
    return tokenizer


def decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(t) for t in token_ids)
