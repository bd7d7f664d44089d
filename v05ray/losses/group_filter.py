"""Which sealed groups count in the loss.

| word | counts | source |
|---|---|---|
| none | every group | |
| mixed | groups whose rewards differ | DAPO (2503.14476): a group all right or all wrong teaches nothing |

A group that is left out adds neither to the loss nor to what it is divided by. Its rollouts are still recorded, and
still teach the value model, the estimator and the budget rule.
"""

from collections.abc import Sequence

from v05ray.recipes import GroupFilter


def counts(group_filter: GroupFilter, rewards: Sequence[float]) -> bool:
    """Whether a group with these `rewards`[K >= 1] counts in the loss.

    >>> counts("mixed", [1, 1, -1]), counts("mixed", [1, 1, 1]), counts("none", [1, 1, 1])
    (True, False, True)
    """
    return group_filter == "none" or min(rewards) != max(rewards)
