"""What a checkpoint gives back to a part with memory (ours)."""

from collections.abc import Mapping
from typing import Any


def check_state(what: str, state: Mapping[str, Any], keys: set[str]) -> None:
    """Raise `ValueError` unless the state of `what`, such as `advantage 'krpo'`, has exactly these keys.

    >>> check_state("advantage 'spo'", {"anchor": {}}, {"history"})
    Traceback (most recent call last):
    ValueError: advantage 'spo': a state has ['history'], got ['anchor']; is it another recipe's?
    """
    if set(state) != keys:
        raise ValueError(f"{what}: a state has {sorted(keys)}, got {sorted(state)}; is it another recipe's?")
