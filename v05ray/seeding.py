"""Seeds derived from names, so that any process can recompute them and none shares a stream."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed from any sequence of names and numbers; equal parts give equal seeds on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") & 0x7FFF_FFFF


def rollout_seed(run_seed: int, step: int, prompt_id: str, sample_index: int) -> int:
    """The seed of one rollout: it depends on what is drawn, never on which generator draws it or when."""
    return derive_seed("rollout", run_seed, step, prompt_id, sample_index)
