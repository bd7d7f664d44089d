import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.config import LearnerConfig
from v05ray.learning.schedule import rate_factor


def factors(num_steps: int, count: int, **options: object) -> list[float]:
    config = LearnerConfig.model_validate(options)
    return [rate_factor(config, step, num_steps) for step in range(count)]


def test_warmup_by_hand() -> None:
    assert factors(9, 6, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert factors(9, 2) == [1, 1]
    assert factors(9, 2, warmup_steps=1) == [1, 1]


def test_decay_by_hand() -> None:
    # Two steps of warm-up, then t = 0, 1/4, 2/4, 3/4 and past the end 1.
    linear = factors(6, 8, schedule="linear", warmup_steps=2, min_rate_fraction=0.2)
    assert linear == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])
    # (1 + cos(pi t)) / 2 at t = 0, 1/3, 2/3, 1 is 1, 3/4, 1/4, 0.
    assert factors(3, 5, schedule="cosine") == pytest.approx([1, 0.75, 0.25, 0, 0])
    assert factors(3, 5, schedule="cosine", min_rate_fraction=0.5) == pytest.approx([1, 0.875, 0.625, 0.5, 0.5])


@given(
    st.sampled_from(["constant", "cosine", "linear"]), st.integers(0, 5), st.integers(6, 40), st.floats(0, 1), st.data()
)
def test_law_every_step_of_the_run_learns_and_the_rate_falls_after_warm_up(
    schedule: str, warmup: int, num_steps: int, least: float, data: st.DataObject
) -> None:
    found = factors(num_steps, num_steps + 2, schedule=schedule, warmup_steps=warmup, min_rate_fraction=least)
    assert all(0 < factor <= 1 for factor in found[:num_steps])
    assert found[warmup] == pytest.approx(1)
    step = data.draw(st.integers(warmup, num_steps))
    assert found[step + 1] <= found[step] + 1e-12
