"""The run's append-only record: every rollout and every decision, one pair of Parquet files per step.

    RUN/ledger/rollouts-000012.parquet    a row per rollout: prompt, response, reward, tokens, advantage, ...
    RUN/ledger/decisions-000012.parquet   a row per decision of the budget machine, with the evidence it rests on
    RUN/ledger/step-000012.json           names the two, with their row counts and the step's settings

A step exists once its JSON file does; it is written last and renamed into place, so a process killed at any moment
leaves whole steps and files that no step names, which are never read. A step written again (after a resume from an
earlier checkpoint) gets files of a new name and switches over in the same rename.

What a resume repeats is not thrown away: its steps move to `superseded/001/`, `superseded/002/`, ..., each a ledger of
the same form, and so do the finished prompts of a step that was given up. No reader of the run's ledger looks there.
"""

from v05ray.ledger.columns import DECISION_SCHEMA, FORMAT_VERSION, GREEDY_INDEX, ROLLOUT_SCHEMA
from v05ray.ledger.folder import SUPERSEDED, LedgerError
from v05ray.ledger.reader import LedgerReader
from v05ray.ledger.writer import LedgerWriter

__all__ = [
    "DECISION_SCHEMA",
    "FORMAT_VERSION",
    "GREEDY_INDEX",
    "ROLLOUT_SCHEMA",
    "SUPERSEDED",
    "LedgerError",
    "LedgerReader",
    "LedgerWriter",
]
