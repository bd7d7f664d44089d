"""Who gets how many rollouts: rules (what is wanted) and the batch machine (what is done). Standard library only."""

from v05ray.budget.base import RULES, Evidence, Judgement, Rule, rule
from v05ray.budget.batch import BatchMachine
from v05ray.budget.rules import FixedRule, OslaRule, build

__all__ = ["RULES", "BatchMachine", "Evidence", "FixedRule", "Judgement", "OslaRule", "Rule", "build", "rule"]
