"""Budget rules by name. To add one: a class with `@rule("name")` in a file here, imported below.

Each file names its paper; looking them up by name is ours.
"""

from collections.abc import Mapping
from typing import Any

from v05ray.budget.base import RULES, Rule
from v05ray.budget.rules import allotted, fixed, hora, osla, sequential
from v05ray.budget.rules.fixed import FixedRule
from v05ray.budget.rules.osla import OslaRule

__all__ = ["RULES", "FixedRule", "OslaRule", "allotted", "build", "fixed", "hora", "osla", "sequential"]


def build(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """A fresh rule with its options; raises `ConfigError` for an unknown name, or an option unknown or out of range.

    >>> build("fixed", {"n": 8}).n_max
    8
    """
    return RULES.build(name, options or {})
