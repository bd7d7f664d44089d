"""Counting verdicts, and when a step's are too bad to learn from; worked by hand."""

from dataclasses import replace

import pytest

from tests.unit.ledger.test_ledger import make_group
from v05ray.errors import RunError
from v05ray.rewards.verdicts import check_failures, counts_shown, failures_shown, verdict_counts, verdict_metrics


def group_with(prompt_id: str, *failures: tuple[str, str]):
    """Three rollouts, the first of which failed with (verdict, message)."""
    group = make_group(prompt_id)
    scored = [
        replace(one, reward=-1.0, verdict=failure[0], message=failure[1], extracted=None)
        for one, failure in zip(group.scored, failures, strict=False)
    ]
    return replace(group, scored=(*scored, *group.scored[len(scored) :]))


ERROR = ("error", "ValueError: no tests")
UNREADABLE = ("unreadable", "the reference answer 'NaN' is no answer")


def test_verdicts_are_counted_by_kind():
    groups = [group_with("p1", ERROR), group_with("p2", UNREADABLE, UNREADABLE)]
    assert verdict_counts(groups) == {"correct": 2, "wrong": 1, "error": 1, "unreadable": 2}
    assert verdict_metrics(groups)["v05/verdict_unreadable_fraction"] == pytest.approx(1 / 3)
    assert verdict_metrics(groups)["v05/verdict_timeout_fraction"] == 0
    assert counts_shown(verdict_counts(groups)) == "correct 2, wrong 1, error 1, unreadable reference 2"


def test_the_bound_is_on_the_share_of_failures():
    groups = [group_with("p1", ERROR), group_with("p2", ERROR)]  # 2 of 6
    check_failures(groups, 1 / 3, step=4)
    with pytest.raises(RunError, match="step 4: 2 of 6 verdicts"):
        check_failures(groups, 0.3, step=4)


def test_the_most_frequent_reasons_come_first_with_a_prompt_each():
    others = [(f"p{i}", ("crash", f"reason {i}")) for i in range(3, 6)]
    groups = [group_with("p1", UNREADABLE, UNREADABLE), group_with("p2", ERROR, ERROR, UNREADABLE)]
    with pytest.raises(RunError) as raised:
        check_failures([*groups, *(group_with(name, failure) for name, failure in others)], 0, step=1)
    message = str(raised.value)
    assert message.index("3 x unreadable: the reference answer 'NaN'") < message.index("2 x error: ValueError")
    assert "(such as prompt 'p1')" in message
    assert "(such as prompt 'p2')" in message
    assert message.count("reason ") == 1  # three reasons in all


def test_few_failures_are_not_shown():
    assert failures_shown({}) is None
    assert failures_shown({"v05/verdict_error_fraction": 0.01}) is None
    assert failures_shown({"v05/verdict_crash_fraction": 0.5}) == "verdicts: 50% crash"
