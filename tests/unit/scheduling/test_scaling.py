from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from v05ray.config import GeneratorsConfig
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.scheduling.scaling import ScalingPolicy, Workload, WorkMeter

needs = st.floats(0.01, 12.0)


def config_of(**settings: Any) -> GeneratorsConfig:
    written = {"count": 2, "min": 1, "max": 8, "target_backlog_s": 10, "sustain_s": 5, "hold_s": 60, "cooldown_s": 20}
    return GeneratorsConfig.model_validate(written | settings)


@dataclass
class Bench:
    """A policy whose workload is made up: one generator does 100 tokens per second and draws half of every bound."""

    policy: ScalingPolicy
    work: Workload = field(default_factory=Workload)

    def generate(self, seconds: float, need: float, *, ready: int = 2) -> int:
        """`need` generators would hold the backlog at 10 s: `need` x 10 s x 100 tokens/s, twice that as a bound."""
        outstanding = round(need * 10 * 100 * 2)
        done = round(seconds * ready * 100)
        old = self.work
        self.work = Workload(
            outstanding,
            True,
            old.generating_s + seconds,
            old.backlog_token_s + outstanding * seconds,
            old.ready_s + ready * seconds,
            old.answered_bound + 2 * done,
            old.answered_tokens + done,
        )
        return self.policy.observe(self.work)


def test_the_meter_integrates_by_hand_and_stops_while_nothing_is_outstanding():
    now = 0.0
    meter = WorkMeter(clock=lambda: now)
    meter.ready(2)
    now = 100.0
    meter.asked(1000)
    now = 102.0
    meter.asked(500)
    meter.ready(1)
    now = 106.0
    meter.ended(1000, 300, 4)
    now = 107.0
    meter.ended(500, None)  # cancelled: the share is not learned from it
    now = 500.0
    # 2 s x 1000 + 4 s x 1500 + 1 s x 500 token-seconds; 2 s x 2 + 5 s x 1 generator-seconds
    assert meter.read() == Workload(0, False, 7.0, 8500.0, 9.0, 1000, 300, 4)


def test_the_backlog_in_seconds_by_hand():
    bench = Bench(ScalingPolicy(config_of()))
    assert bench.policy.backlog_s(Workload(outstanding_tokens=10, generating=True), 2) is None
    bench.generate(6, 2.0)
    # 4000 tokens at most are outstanding, half of which will be drawn, by 2 generators at 100 tokens/s
    assert bench.policy.backlog_s(bench.work, 2) == pytest.approx(10.0)
    assert bench.policy.backlog_s(bench.work, 4) == pytest.approx(5.0)


def test_it_grows_at_once_when_the_backlog_stays_after_the_cool_down():
    bench = Bench(ScalingPolicy(config_of()))
    assert [bench.generate(5, 4.5) for _ in range(4)] == [2, 2, 2, 5]


def test_it_shrinks_only_after_the_hold():
    bench = Bench(ScalingPolicy(config_of(count=6)))
    assert [bench.generate(10, 1.5) for _ in range(6)] == [6, 6, 6, 6, 6, 2]


def test_one_high_slice_holds_it_for_a_while():
    bench = Bench(ScalingPolicy(config_of(count=6)))
    assert [bench.generate(10, need) for need in (1.5, 1.5, 5.5, 1.5, 1.5, 1.5, 1.5, 1.5)][-1] == 6
    assert bench.generate(10, 1.5) == 2


def test_without_a_target_only_a_hand_changes_it():
    bench = Bench(ScalingPolicy(config_of(target_backlog_s=None)))
    assert {bench.generate(10, 8.0) for _ in range(20)} == {2}
    bench.policy.set(5)
    assert bench.policy.wanted == 5


def test_a_number_outside_the_bounds_is_refused_with_both_named():
    policy = ScalingPolicy(config_of())
    with pytest.raises(ConfigError, match="9 generators asked for, but this run allows 1 to 8"):
        policy.set(9)


@given(count=st.integers(1, 8), slices=st.lists(st.tuples(st.floats(0.1, 30), needs), max_size=60))
def test_it_stays_within_its_bounds(count: int, slices: list[tuple[float, float]]):
    bench = Bench(ScalingPolicy(config_of(count=count)))
    for seconds, need in slices:
        assert 1 <= bench.generate(seconds, need) <= 8


@given(count=st.integers(1, 8), need=needs)
@example(count=7, need=4.0)
def test_a_steady_load_changes_it_at_most_once(count: int, need: float):
    bench = Bench(ScalingPolicy(config_of(count=count)))
    seen = [count, *(bench.generate(5, need) for _ in range(100))]
    assert sum(a != b for a, b in pairwise(seen)) <= 1
    # and what it settles at can carry the load, or is all that may be had
    assert need <= 1.2 * seen[-1] + 1e-6 or seen[-1] == 8


@given(
    count=st.integers(1, 8),
    height=st.floats(0.2, 16.0),
    generation_s=st.floats(1.0, 50.0),
    phase=st.floats(0.0, 1.0),
    pause_s=st.floats(0.0, 1000.0),
)
@example(count=3, height=1.9375, generation_s=35.17857925400373, phase=0.3515625, pause_s=0.0)
def test_batches_that_come_and_go_do_not_thrash_it(
    count: int, height: float, generation_s: float, phase: float, pause_s: float
):
    """Every batch's backlog falls from the same height to nothing, then the learner works; looked at every second."""
    bench, now, seen = Bench(ScalingPolicy(config_of(count=count))), phase * generation_s, [count]
    for _ in range(1000):
        step = min(1.0, generation_s - now)
        seen.append(bench.generate(step, height * (1 - (now + step / 2) / generation_s)))
        now += step
        if now >= generation_s - 1e-9:
            now = 0.0
            for _ in range(int(pause_s // 100)):  # learning: nothing is outstanding, and no generating time passes
                assert bench.policy.observe(bench.work) == seen[-1]
    grew = [b > a for a, b in pairwise(seen) if a != b]
    assert sum(a != b for a, b in pairwise(grew)) <= 1  # it may overshoot once, and never swings
    # Slices fall on other parts of the batches as time passes, so a height on the boundary may show it late, and once.
    assert sum(a != b for a, b in pairwise(seen[len(seen) // 2 :])) <= 1


@given(first=st.lists(needs, min_size=30, max_size=30), later=st.lists(needs, min_size=30, max_size=30))
def test_after_a_shrink_only_half_as_much_again_makes_it_grow(first: list[float], later: list[float]):
    bench = Bench(ScalingPolicy(config_of()))
    before, recent = 2, []
    floor = None
    for need in first + later:
        wanted = bench.generate(5, need)
        recent.append(need)
        if wanted < before:
            floor = max(recent[-12:])
        elif wanted > before and floor is not None:
            assert need >= 1.5 * floor * (1 - 1e-3)
            floor = None
        before = wanted


@given(low=needs, factor=st.floats(1.0, 10.0), count=st.integers(1, 8))
def test_more_backlog_never_wants_fewer(low: float, factor: float, count: int):
    less, more = (Bench(ScalingPolicy(config_of(count=count))) for _ in range(2))
    for _ in range(40):
        assert less.generate(5, low) <= more.generate(5, low * factor)


@given(
    st.lists(
        st.builds(Workload, *(st.integers(0, 9), st.booleans(), *(st.integers(0, 9),) * 6)),
        min_size=1,
    )
)
def test_what_shards_saw_side_by_side_adds_up_but_for_the_time(parts: list[Workload]):
    whole = Workload.combined(parts)
    assert whole.outstanding_tokens == sum(p.outstanding_tokens for p in parts)
    assert whole.generating_s == max(p.generating_s for p in parts)
    assert whole.ready_s == sum(p.ready_s for p in parts)


def test_the_bounds_default_to_the_count_and_must_hold_it():
    base = {"model": {"path": "m"}, "data": {"train": "jsonl"}}
    generators = make_config({**base, "generators": {"count": 3}}).generators
    assert (generators.fewest, generators.most) == (3, 3)
    with pytest.raises(ConfigError, match="min <= count <= max must hold: 1, 3, 2"):
        make_config({**base, "generators": {"count": 3, "min": 1, "max": 2}})
