"""Nested mappings as flat ones with dotted names, the way people write overrides: `learner.learning_rate`."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` to `{"a.b": 1}`, and `{"a": [{"b": 1}]}` to `{"a.0.b": 1}`.

    Lists of anything but mappings are values, and an empty mapping is the value `{}`.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
            value = {str(index): one for index, one in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
