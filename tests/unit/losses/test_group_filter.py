import pytest

from v05ray.losses.group_filter import GroupFilter, counts


@pytest.mark.parametrize(
    ("group_filter", "rewards", "expected"),
    [
        ("mixed", (1.0, -1.0, 1.0), True),
        ("mixed", (1.0, 1.0), False),
        ("mixed", (-1.0, -1.0), False),
        ("mixed", (0.25, 0.5), True),  # partial rewards that differ teach something
        ("mixed", (0.5,), False),
        ("none", (1.0, 1.0), True),
    ],
)
def test_by_hand(group_filter: GroupFilter, rewards: tuple[float, ...], expected: bool) -> None:
    assert counts(group_filter, rewards) is expected
