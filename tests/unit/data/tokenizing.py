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


def decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(t) for t in token_ids)
