"""Questions of many procedural task families: the corpus that the embedded default is fitted on.

It needs no download, and anyone can make it again from the seed and reasoning-gym's version.
"""

import contextlib
import io
import random

from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed

LEFT_OUT = frozenset({"arc_agi", "boxnet", "codeio", "composite", "knight_swap", "rearc", "rectangle_count"})
"""Each needs extra data, takes most of a second per question, writes thousands of characters, or is a mixture."""
NOT_REPEATABLE = frozenset({"isomorphic_strings", "polynomial_multiplication", "ransom_note"})
"""Their questions follow the order of Python sets, which differs from process to process."""


def question_bank(num_per_family: int, seed: int) -> dict[str, list[str]]:
    """Up to `num_per_family` distinct questions of every family, by family name, in a fixed order.

    Families that cannot make that many distinct questions give what they have. Raises `ConfigError` without the
    package.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError("pretraining needs the package 'reasoning-gym'; pip install reasoning-gym") from error
    bank: dict[str, list[str]] = {}
    for family in sorted(set(DATASETS) - LEFT_OUT - NOT_REPEATABLE):
        family_seed = derive_seed("bank", seed, family)
        # Some generators draw from the global generator beside their own seed.
        random.seed(family_seed)
        with contextlib.redirect_stdout(io.StringIO()):  # one of them prints a dot per question
            dataset = reasoning_gym.create_dataset(family, size=num_per_family, seed=family_seed)
            questions = [str(dataset[i]["question"]) for i in range(num_per_family)]
        bank[family] = list(dict.fromkeys(questions))
    return bank
