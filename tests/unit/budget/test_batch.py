import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.budget.worlds import play, random_world, stops
from v05ray.budget import BatchMachine, Evidence, FixedRule, Judgement, OslaRule
from v05ray.budget.base import Rule
from v05ray.errors import ConfigError
from v05ray.types import Decision, Draw, Stop


def test_one_prompt_from_cold_start_to_seal_number_by_number() -> None:
    machine = BatchMachine({"p": 0.5}, OslaRule(cold_start=4, cost=1 / 256, n_max=16), halt_fraction=0)
    assert machine.start() == [Decision(Draw("p", 4), 0, None, 0.5, None, None, 1)]
    assert [machine.observe("p", r) for r in (-1, 1, -1)] == [[], [], []]
    # mean -.5, b2 = 1 - .25 = .75, target = floor(16 - 4/3) = 14
    assert machine.observe("p", -1) == [Decision(Draw("p", 10), 4, -0.5, 0.5, 0.75, 14, 1)]
    assert machine.outstanding("p") == 10
    for reward in (-1, -1, -1, -1, -1, -1, -1, 1, 1):
        assert machine.observe("p", reward) == []
    # 14 scored, 4 of them good: mean = -6/14; b2 = (13/14)^2 - 1/14, target = floor(16 - 1.264) = 14
    (last,) = machine.observe("p", 1)
    assert last.action == Stop("p", "target_reached")
    assert last.mean == pytest.approx(-6 / 14)
    assert last.bias_squared == pytest.approx((13 / 14) ** 2 - 1 / 14)
    assert last.target == 14
    assert machine.done
    assert (machine.num_drawn, machine.num_scored, machine.num_halted, machine.halted) == (14, 14, 0, False)


def test_agreement_is_accepted_at_the_cold_start() -> None:
    machine = BatchMachine({"p": 0.5}, OslaRule())
    assert stops(play(machine, {"p": [1, 1, -1, -1]})) == {"p": ("accepted", 4)}  # |0 - .5| is the radius itself


def test_a_rejection_may_still_be_too_small_for_a_top_up() -> None:
    # |mu - V| = .55 lies between the radius .5 and the threshold .577: rejected, yet target floor(16 - 19.05) < 4
    machine = BatchMachine({"p": 0.55}, OslaRule())
    assert stops(play(machine, {"p": [1, 1, -1, -1]})) == {"p": ("target_reached", 4)}


def test_the_cap_is_named() -> None:
    machine = BatchMachine({"p": -1.0}, OslaRule(n_max=6), halt_fraction=0)
    assert stops(play(machine, {"p": [1] * 6})) == {"p": ("cap", 6)}


def test_each_prompt_is_judged_the_moment_its_last_rollout_is_scored() -> None:
    machine = BatchMachine({"a": 1.0, "b": 0.0}, FixedRule(2))
    assert [d.action for d in machine.start()] == [Draw("a", 2), Draw("b", 2)]
    assert machine.observe("a", 1) == []
    assert [d.action for d in machine.observe("a", 1)] == [Stop("a", "fixed")]
    assert (machine.num_open, machine.is_open("a"), machine.done) == (1, False, False)
    assert machine.observe("b", 1) == []
    assert [d.open_prompts for d in machine.observe("b", -1)] == [1]


def test_rounds_wait_for_all_and_then_speak_for_all() -> None:
    machine = BatchMachine({"a": 1.0, "b": 0.0}, OslaRule(cold_start=2, n_max=4), mode="rounds", halt_fraction=0)
    machine.start()
    for prompt_id, reward in (("a", -1), ("a", -1), ("b", 1)):
        assert machine.observe(prompt_id, reward) == []
    # a: b2 = 4 - .5 = 3.5, target 4. b: mean 0, accepted; stops come first.
    assert [d.action for d in machine.observe("b", -1)] == [Stop("b", "accepted"), Draw("a", 2)]


def test_a_wish_is_refused_when_fewer_than_the_halt_fraction_are_open() -> None:
    # Of four prompts the halt is at fewer than 2 open: `late` wants more when it alone is open, `early` while two are.
    priors = {"a": 0.0, "b": 0.0, "early": 1.0, "late": 1.0}
    machine = BatchMachine(priors, OslaRule(cold_start=2, n_max=4), halt_fraction=0.5)
    machine.start()
    for prompt_id in ("a", "b"):
        machine.observe(prompt_id, 1)
        machine.observe(prompt_id, -1)
    machine.observe("early", -1)
    (decision,) = machine.observe("early", -1)
    assert (decision.action, decision.open_prompts) == (Draw("early", 2), 2)
    for reward in (-1, -1):
        decisions = machine.observe("early", reward)
    assert [d.action for d in decisions] == [Stop("early", "cap")]
    machine.observe("late", -1)
    (decision,) = machine.observe("late", -1)
    assert (decision.action, decision.open_prompts, decision.target) == (Stop("late", "halted"), 1, 4)
    assert (machine.num_halted, machine.halted) == (1, True)


@pytest.mark.parametrize(("num_wanting", "halted"), [(1, True), (2, False)])
def test_rounds_halt_when_fewer_than_a_sixteenth_want_more(num_wanting: int, halted: bool) -> None:
    priors = {f"p{i}": (1.0 if i < num_wanting else 0.0) for i in range(32)}
    machine = BatchMachine(priors, OslaRule(cold_start=2, n_max=4), mode="rounds")
    rewards = {i: ([-1] * 4 if v else [1, -1]) for i, v in priors.items()}
    reasons = [reason for reason, _ in stops(play(machine, rewards)).values()]
    assert reasons.count("halted") == (num_wanting if halted else 0)
    assert reasons.count("cap") == (0 if halted else num_wanting)


def test_draining_lets_in_flight_rollouts_finish() -> None:
    machine, decisions = _halt_with_a_top_up_in_flight("drain")
    assert decisions[-1].action == Stop("b", "accepted")
    assert machine.num_outstanding == 2
    machine.observe("top", -1)
    assert [d.action for d in machine.observe("top", -1)] == [Stop("top", "cap")]
    assert (machine.num_aborted, machine.num_halted) == (0, 0)


def test_aborting_seals_top_ups_in_flight_and_counts_them() -> None:
    machine, decisions = _halt_with_a_top_up_in_flight("abort")
    assert [d.action for d in decisions] == [Stop("b", "accepted"), Stop("top", "halted")]
    assert decisions[-1].num_scored == 2
    assert (machine.num_aborted, machine.num_halted, machine.num_outstanding, machine.done) == (2, 1, 0, True)
    with pytest.raises(ValueError, match=r"'top' \(sealed\) waits for 0 rollouts, got 1"):
        machine.observe("top", 1)


def _halt_with_a_top_up_in_flight(on_halt: str) -> tuple[BatchMachine, list[Decision]]:
    machine = BatchMachine(
        {"a": 0.0, "b": 0.0, "top": 1.0},
        OslaRule(cold_start=2, n_max=4),
        halt_fraction=0.6,  # fewer than 1.8 open
        on_halt="abort" if on_halt == "abort" else "drain",
    )
    machine.start()
    machine.observe("top", -1)
    machine.observe("top", -1)
    for prompt_id in ("a", "b"):
        machine.observe(prompt_id, 1)
        decisions = machine.observe(prompt_id, -1)
    return machine, decisions


def test_an_abort_never_touches_a_cold_start() -> None:
    machine = BatchMachine({"a": 0.0, "b": 0.0}, FixedRule(2), halt_fraction=1, on_halt="abort")
    machine.start()
    machine.observe("b", 1)
    machine.observe("a", 1)
    assert [d.action for d in machine.observe("a", 1)] == [Stop("a", "fixed")]
    assert [d.action for d in machine.observe("b", 1)] == [Stop("b", "fixed")]


def test_a_top_up_is_padded_to_the_multiple_within_the_cap() -> None:
    machine = BatchMachine({"p": 0.5}, OslaRule(), halt_fraction=0, dispatch_multiple=8)
    machine.start()
    for reward in (-1, 1, -1, -1):
        decisions = machine.observe("p", reward)
    assert decisions[0].action == Draw("p", 12)  # wants 10, padded to 16, capped at 16 - 4
    assert machine.num_padding == 2


def test_in_rounds_the_padding_goes_where_the_target_is_furthest() -> None:
    rule = OslaRule(cold_start=4, cost=1 / 400, n_max=20)
    # a: V = .6, mean 0: b2 = .11, target floor(20 - 9.09) = 10, 6 more. b: V = .5, mean -.5: b2 = .75, target 18,
    # 14 more. c: accepted. 20 in all, padded to 24; four extra are dealt in turn, b first.
    machine = BatchMachine({"a": 0.6, "b": 0.5, "c": 0.5}, rule, halt_fraction=0, dispatch_multiple=8, mode="rounds")
    decisions = machine.start()
    for rewards in zip([1, 1, -1, -1], [-1, 1, -1, -1], [1, 1, -1, -1], strict=True):
        for prompt_id, reward in zip("abc", rewards, strict=True):
            decisions = machine.observe(prompt_id, reward)
    assert [d.action for d in decisions] == [Stop("c", "accepted"), Draw("a", 8), Draw("b", 16)]
    assert machine.num_padding == 4


def test_one_extra_rollout_goes_to_the_furthest() -> None:
    rule = OslaRule(cold_start=4, cost=1 / 400, n_max=20)
    machine = BatchMachine({"a": 0.6, "b": 0.5}, rule, halt_fraction=0, dispatch_multiple=7, mode="rounds")
    decisions = machine.start()
    for rewards in zip([1, 1, -1, -1], [-1, 1, -1, -1], strict=True):
        for prompt_id, reward in zip("ab", rewards, strict=True):
            decisions = machine.observe(prompt_id, reward)
    assert [d.action for d in decisions] == [Draw("a", 6), Draw("b", 15)]  # 20 padded to 21


def test_in_rounds_no_padding_goes_beyond_the_cap() -> None:
    rule = OslaRule(cold_start=4, cost=1 / 400, n_max=20)
    # As above, but padded to 40: 20 are missing, and there is room for ten more of a and for two more of b.
    machine = BatchMachine({"a": 0.6, "b": 0.5}, rule, halt_fraction=0, dispatch_multiple=40, mode="rounds")
    decisions = machine.start()
    for rewards in zip([1, 1, -1, -1], [-1, 1, -1, -1], strict=True):
        for prompt_id, reward in zip("ab", rewards, strict=True):
            decisions = machine.observe(prompt_id, reward)
    assert [d.action for d in decisions] == [Draw("a", 16), Draw("b", 16)]
    assert machine.num_padding == 12


def test_lost_rollouts_are_drawn_again_or_forgotten() -> None:
    machine = BatchMachine({"p": 0.0}, FixedRule(3))
    machine.start()
    machine.observe("p", 1)
    assert [d.action for d in machine.forget("p", 2)] == [Draw("p", 2)]
    machine.observe("p", 1)
    assert [d.action for d in machine.observe("p", 1)] == [Stop("p", "fixed")]
    assert (machine.num_drawn, machine.num_scored, machine.num_forgotten) == (5, 3, 2)


@pytest.mark.parametrize("mode", ["async", "rounds"])
def test_a_wholly_lost_cold_start_is_drawn_again(mode: str) -> None:
    machine = BatchMachine({"p": 0.0}, OslaRule(), mode="rounds" if mode == "rounds" else "async")
    machine.start()
    assert machine.forget("p", 4) == [Decision(Draw("p", 4), 0, None, 0.0, None, None, 1)]
    machine.forget("p", 1)
    assert machine.num_forgotten == 5


def test_misuse_is_refused() -> None:
    machine = BatchMachine({"p": 0.0}, FixedRule(1))
    with pytest.raises(ValueError, match=r"'p' \(open\) waits for 0 rollouts, got 1"):
        machine.observe("p", 1)
    machine.start()
    with pytest.raises(ValueError, match="started already"):
        machine.start()
    with pytest.raises(ValueError, match=r"the reward of 'p' must be in \[-1, 1\], got 2"):
        machine.observe("p", 2)
    with pytest.raises(ValueError, match=r"'q' \(not of this batch\)"):
        machine.observe("q", 1)
    with pytest.raises(ValueError, match="num_rollouts must be >= 1, got 0"):
        machine.forget("p", 0)


def test_a_rule_without_its_priors_is_refused_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"'osla' needs a prior .* none for 'b' \(1 of 2 lack one\); set value.enabled"
    ):
        BatchMachine({"a": 0.0, "b": None}, OslaRule())
    with pytest.raises(ValueError, match=r"the prior of 'a' must be in \[-1, 1\], got 3"):
        BatchMachine({"a": 3}, OslaRule())
    with pytest.raises(ConfigError, match="needs >= 1 prompt"):
        BatchMachine({}, OslaRule())
    with pytest.raises(ConfigError, match="halt_fraction"):
        BatchMachine({"a": 0.0}, OslaRule(), halt_fraction=2)


class _Greedy(Rule):
    name = "greedy"
    min_rollouts, n_max = 1, 2

    def plan(self, priors):
        return dict.fromkeys(priors, 1)

    def judge(self, evidence: Evidence) -> Judgement:
        return Judgement(9, "cap")


@pytest.mark.parametrize("mode", ["async", "rounds"])
def test_a_rule_that_passes_its_own_cap_is_refused(mode: Literal["async", "rounds"]) -> None:
    machine = BatchMachine({"p": None}, _Greedy(), halt_fraction=0, mode=mode)
    machine.start()
    with pytest.raises(ValueError, match="'greedy' wants 9 rollouts for 'p', above its own n_max of 2"):
        machine.observe("p", 1)


def test_the_mean_does_not_depend_on_the_order_of_arrival() -> None:
    rewards = [0.1, 0.7, -0.3, 0.2, 1 / 3, -0.9]
    one, other = Evidence("p", 0.0, 6), Evidence("p", 0.0, 6)
    for reward in rewards:
        one.add(reward)
    for reward in reversed(rewards):
        other.add(reward)
    assert one.mean == other.mean == pytest.approx(sum(rewards) / 6)
    assert (one.num_positive, one.lowest, one.highest) == (4, -0.9, 0.7)
    neutral = Evidence("p", 0.0, 1)
    neutral.add(0.0)
    assert neutral.num_positive == 0
    single = Evidence("p", 0.0, 1)
    single.add(0.1)
    assert single.mean == 0.1


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3, 4]), st.sampled_from([1 / 64, 1 / 256, 1e-3]))
def test_async_and_rounds_decide_alike_without_halt_and_padding(seed: int, cold_start: int, cost: float) -> None:
    rng = random.Random(seed)
    priors, rewards = random_world(rng, 40, 16)

    def story(mode: str, order: random.Random | None) -> dict[str, list[tuple]]:
        rule = OslaRule(cold_start, cost, 16)
        machine = BatchMachine(priors, rule, halt_fraction=0, mode="rounds" if mode == "rounds" else "async")
        decisions: dict[str, list[tuple]] = {}
        for d in play(machine, rewards, order):
            seen = (d.action, d.num_scored, d.mean, d.prior, d.bias_squared, d.target)
            decisions.setdefault(d.action.prompt_id, []).append(seen)
        return decisions

    assert story("async", random.Random(seed)) == story("rounds", None) == story("async", None)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["async", "rounds"]),
    st.sampled_from(["drain", "abort"]),
    st.floats(0, 1),
    st.integers(1, 9),
)
def test_every_draw_is_accounted_for_and_no_cap_passed(
    seed: int, mode: str, on_halt: str, halt_fraction: float, multiple: int
) -> None:
    rng = random.Random(seed)
    priors, rewards = random_world(rng, 24, 13)
    rule = OslaRule(cold_start=3, cost=1 / 256, n_max=13)
    machine = BatchMachine(
        priors,
        rule,
        halt_fraction=halt_fraction,
        dispatch_multiple=multiple,
        mode="rounds" if mode == "rounds" else "async",
        on_halt="abort" if on_halt == "abort" else "drain",
    )
    sealed = stops(play(machine, rewards, rng))  # play checks conservation at every step
    assert set(sealed) == set(priors)
    assert all(3 <= count <= 13 for _, count in sealed.values())
    assert [e.num_scored for e in machine.evidence()] == [sealed[p][1] for p in priors]
    assert machine.num_halted == sum(reason == "halted" for reason, _ in sealed.values())


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_the_halt_only_ever_takes_away(seed: int) -> None:
    priors, rewards = random_world(random.Random(seed), 40, 16)
    free = stops(play(BatchMachine(priors, OslaRule(), halt_fraction=0), rewards, random.Random(seed)))
    halted = stops(play(BatchMachine(priors, OslaRule(), halt_fraction=0.5), rewards, random.Random(seed)))
    assert all(halted[p][1] <= free[p][1] for p in priors)
