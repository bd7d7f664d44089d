"""Metric names as a tracking server takes them."""

import re

_REFUSED = re.compile(r"[^\w.\- :/]")


def name_part(source: str) -> str:
    """A source's name as a part of a metric's name: what MLflow refuses becomes `_`."""
    return _REFUSED.sub("_", source)
