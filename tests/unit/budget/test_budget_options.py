"""The options of the rules and of the machine: the edges of their ranges, and what their defaults come to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from v05ray import budget
from v05ray.budget import BatchMachine, Evidence, FixedRule, OslaRule, Rule
from v05ray.budget.allot import allot
from v05ray.budget.controller import CostController
from v05ray.budget.rules.allotted import KnapsackRule, V0AllocationRule, VipRule
from v05ray.errors import ConfigError
from v05ray.types import Draw, Stop


def evidence(*rewards: float, prior: float | None = None, tokens: int = 0) -> Evidence:
    one = Evidence("p", prior, len(rewards))
    for reward in rewards:
        one.add(reward, tokens)
    return one


def bounds(rule: Rule) -> tuple[int, int]:
    return rule.min_rollouts, rule.n_max


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fixed", {"n": 1}, (1, 1)),
        ("osla", {"cold_start": 1}, (1, 16)),
        ("osla", {"cold_start": 16}, (16, 16)),
        ("dapo", {"n": 1}, (1, 64)),
        ("dapo", {"n": 64}, (64, 64)),
        ("reinforce_ada", {"n": 32}, (32, 32)),
        ("pilot_commit", {"pilot": 1, "commit": 0}, (1, 1)),
        ("pilot_commit", {"low": 0, "high": 0}, (16, 64)),
        ("pilot_commit", {"low": 1, "high": 1}, (16, 64)),
        ("vip", {"n_min": 2, "mean_rollouts": 2}, (2, 32)),
        ("v0_allocation", {"n_min": 1, "mean_rollouts": 1}, (1, 32)),
        ("knapsack", {"mean_rollouts": 32, "discount": 1, "capacity": 1}, (2, 32)),
        ("hora", {"pilot": 1, "mean_rollouts": 1}, (1, 32)),
        ("hora", {"mean_rollouts": 32}, (4, 32)),
    ],
)
def test_the_edges_of_the_ranges_are_allowed(name: str, options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert bounds(budget.build(name, options)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("osla", (4, 16)),
        ("dapo", (16, 64)),
        ("reinforce_ada", (8, 32)),
        ("pilot_commit", (16, 64)),
        ("vip", (2, 32)),
        ("v0_allocation", (2, 32)),
        ("knapsack", (2, 32)),
        ("hora", (4, 32)),
    ],
)
def test_the_default_bounds_are_the_papers(name: str, expected: tuple[int, int]) -> None:
    assert bounds(budget.build(name)) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fixed", {"n": 0}),
        ("osla", {"cold_start": 0}),
        ("osla", {"cold_start": 17}),
        ("osla", {"mean_rollouts": 4}),
        ("osla", {"mean_rollouts": 16}),
        ("osla", {"tokens_per_step": 0}),
        ("dapo", {"n": 0}),
        ("dapo", {"n": 65}),
        ("reinforce_ada", {"n": 0}),
        ("pilot_commit", {"pilot": 0}),
        ("pilot_commit", {"commit": -1}),
        ("pilot_commit", {"low": -0.1}),
        ("pilot_commit", {"high": 1.1}),
        ("pilot_commit", {"low": 0.5, "high": 0.4}),
        ("vip", {"n_min": 1}),
        ("v0_allocation", {"n_min": 0}),
        ("v0_allocation", {"n_min": 9}),
        ("knapsack", {"mean_rollouts": 1.9}),
        ("knapsack", {"mean_rollouts": 32.1}),
        ("knapsack", {"discount": 0}),
        ("hora", {"pilot": 0}),
        ("hora", {"mean_rollouts": 3.9}),
        ("hora", {"mean_rollouts": 32.1}),
    ],
)
def test_beyond_the_ranges_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"budget rule '{name}': "):
        budget.build(name, options)


@pytest.mark.parametrize("options", [{"halt_fraction": -0.1}, {"halt_fraction": 1.1}, {"dispatch_multiple": 0}])
def test_the_machine_refuses_what_is_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs 0 <= halt_fraction <= 1 and dispatch_multiple >= 1"):
        BatchMachine({"a": 0.0}, FixedRule(1), **options)


@pytest.mark.parametrize("prior", [-1.1, -1.0000001, 1.0000001, float("nan")])
def test_the_machine_refuses_a_prior_or_reward_off_the_scale(prior: float) -> None:
    with pytest.raises(ValueError, match=r"the prior of 'a' must be in \[-1, 1\]"):
        BatchMachine({"a": prior}, OslaRule())
    machine = BatchMachine({"a": -1.0, "b": 1.0}, OslaRule())
    machine.start()
    with pytest.raises(ValueError, match=r"the reward of 'a' must be in \[-1, 1\]"):
        machine.observe("a", prior)
    assert machine.observe("a", -1.0) == machine.observe("a", 1.0) == []


def test_the_worth_of_rollouts_by_hand() -> None:
    assert V0AllocationRule().worth(0.25, 3) == pytest.approx(3 * 0.75 * (1 - 0.75**2))
    assert VipRule().worth(0.25, 4) == pytest.approx(-0.25 * 0.75 / 3)
    assert KnapsackRule().worth(0.25, 3) == pytest.approx((1 - 1 / 64 - 27 / 64) * 0.25 * 0.75**2)
    assert VipRule().probability("p", 0.5) == 0.75


def test_knapsack_forgets_half_per_visit_by_default() -> None:
    rule = KnapsackRule()
    assert rule.probability("p", None) == 0.5
    assert rule.probability("p", -0.5) == 0.25
    rule.observe([evidence(1, 1, 1, -1)])  # a = .25 + 3, b = .25 + 1
    assert rule.probability("p", -0.5) == pytest.approx(3.25 / 4.5)
    rule.observe([evidence()])  # nothing scored: nothing learned
    assert rule.probability("p", None) == pytest.approx(3.25 / 4.5)


def test_a_total_that_is_no_whole_number_is_rounded_down() -> None:
    plan = budget.build("vip", {"mean_rollouts": 2.5}).plan({"a": 0.0, "b": 0.0, "c": 0.0})
    assert sum(plan.values()) == 7


class TestCostController:
    def of(self, **options: Any) -> CostController:
        return CostController(**{"cost": 1 / 256, "cold_start": 4, "n_max": 16, **options})

    def test_it_moves_by_the_root_of_the_error_and_at_most_by_two(self) -> None:
        for num_rollouts, factor in ((60, 1), (50, 0.5**0.5), (80, 2**0.5), (120, 2), (400, 2), (41, 0.5), (40, 0.5)):
            controller = self.of(mean_rollouts=6)  # 40 cold, 20 wanted beyond
            controller.observe(10, num_rollouts, 0)
            assert controller.cost * 256 == pytest.approx(factor)

    def test_tokens_are_counted_beyond_the_cold_starts_share(self) -> None:
        controller = self.of(tokens_per_step=1000)
        controller.observe(10, 60, 1200)  # 20 a rollout, 800 of the cold start: 400 beyond it, 200 wanted
        assert controller.cost * 256 == pytest.approx(2**0.5)
        scarce = self.of(tokens_per_step=800)
        scarce.observe(10, 60, 1200)  # nothing is wanted beyond the cold start
        assert scarce.cost * 256 == pytest.approx(2)

    def test_the_gain_is_a_setting(self) -> None:
        controller = self.of(mean_rollouts=6, gain=1)
        controller.observe(10, 80, 0)
        assert controller.cost * 256 == pytest.approx(2)

    def test_the_cost_stays_where_some_are_topped_up_and_not_all(self) -> None:
        assert self.of(mean_rollouts=6, cost=1).cost == 1 / 16
        assert self.of(mean_rollouts=6, cost=1e-9).cost == 1 / 64**2

    def test_a_step_without_rollouts_changes_nothing(self) -> None:
        controller = self.of(mean_rollouts=6)
        controller.observe(10, 0, 0)
        assert controller.cost == 1 / 256

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"mean_rollouts": 6, "tokens_per_step": 9},
            {"mean_rollouts": 4},
            {"mean_rollouts": 16},
            {"tokens_per_step": 0},
            {"mean_rollouts": 6, "gain": 0},
            {"mean_rollouts": 6, "gain": 1.1},
        ],
    )
    def test_bad_settings_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=r"mean_rollouts|tokens_per_step|gain"):
            self.of(**options)


class TestLengths:
    def test_the_usual_length_is_that_of_all_rollouts_and_forgets_a_tenth_per_step(self) -> None:
        rule = OslaRule(token_aware=True, n_max=64)
        rule.observe([evidence(1, 1, tokens=100), evidence(1, 1, 1, 1, 1, 1, tokens=300)])  # 2,000 of 8: 250
        rule.observe([evidence(1, tokens=60)])  # (.9 * 250 + 60) / 1.9 = 150
        assert rule.state_dict()["length"] == pytest.approx({"total": 0.9 * 250 + 60, "weight": 1.9})
        assert rule.judge(evidence(-1, -1, -1, 1, prior=0.5, tokens=150)).target == 14

    def test_empty_responses_and_empty_steps_leave_the_cost_as_it_is(self) -> None:
        rule = OslaRule(token_aware=True, n_max=64)
        rule.observe([])
        assert rule.judge(evidence(-1, -1, -1, 1, prior=0.5, tokens=0)).target == 14
        rule.observe([evidence(1, tokens=0)])
        assert rule.judge(evidence(-1, -1, -1, 1, prior=0.5, tokens=9)).target == 14

    def test_a_steered_cost_is_resumed_and_a_fixed_one_is_not(self) -> None:
        steered = OslaRule(mean_rollouts=6)
        steered.observe([evidence(*[1.0] * 16, prior=0.0)])
        assert steered.cost > 1 / 256
        resumed, fixed = OslaRule(mean_rollouts=6), OslaRule(cost=1 / 100)
        resumed.load_state_dict(steered.state_dict())
        fixed.load_state_dict(steered.state_dict())
        assert (resumed.cost, fixed.cost) == (steered.cost, 1 / 100)
        resumed.load_state_dict(fixed.state_dict())
        assert resumed.cost == steered.cost


def test_records_are_slotted_and_a_judgement_is_frozen() -> None:
    judgement = budget.Judgement(1, "fixed")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(judgement, "target", 2)  # noqa: B010  (the type checker would refuse the assignment)
    assert not hasattr(judgement, "__dict__")
    assert not hasattr(evidence(), "__dict__")


def test_a_total_that_no_piece_fits_into_goes_to_the_steepest_step() -> None:
    # Both pieces cross three rollouts; of single steps, b gains 3 and a gains 1, however much a is worth already.
    assert allot([[10, 11, 11, 30], [0, 3, 3, 20]], 1) == [0, 1]


class _Scripted(Rule):
    """Draws and wants what it is given, by prompt."""

    name = "scripted"
    min_rollouts, n_max = 1, 12

    def __init__(self, plan: dict[str, int], targets: dict[str, int]) -> None:
        self._plan, self._targets = plan, targets

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        return self._plan

    def judge(self, evidence: Evidence) -> budget.Judgement:
        return budget.Judgement(self._targets[evidence.prompt_id], "target_reached")


def test_padding_counts_what_is_left_to_draw_and_not_what_is_drawn() -> None:
    # a wants 2 more of 8, b 3 more of 4: five, padded to six.
    rule = _Scripted({"a": 6, "b": 1}, {"a": 8, "b": 4})
    machine = BatchMachine({"a": None, "b": None}, rule, halt_fraction=0, dispatch_multiple=6, mode="rounds")
    machine.start()
    decisions = [decision for name in "aaaaaab" for decision in machine.observe(name, 1.0)]
    assert [decision.action for decision in decisions] == [Draw("a", 2), Draw("b", 4)]


def test_a_batch_is_done_once_it_has_started_and_every_prompt_is_sealed() -> None:
    machine = BatchMachine({"a": None}, FixedRule(1))
    assert (machine.done, machine.num_open, machine.halted, machine.num_drawn) == (False, 1, False, 0)
    machine.start()
    assert (machine.done, machine.num_outstanding, machine.outstanding("a"), machine.num_drawn) == (False, 1, 1, 1)
    machine.observe("a", 1.0, num_tokens=7)
    assert (machine.done, machine.num_outstanding, machine.num_scored, machine.num_padding) == (True, 0, 1, 0)
    assert machine.evidence()[0].num_tokens == 7


def test_forgetting_part_of_what_is_out_waits_for_the_rest() -> None:
    machine = BatchMachine({"a": None}, FixedRule(3))
    machine.start()
    assert machine.forget("a", 1) == []
    with pytest.raises(ValueError, match=r"'a' \(open\) waits for 2 rollouts, got 3"):
        machine.forget("a", 3)
    assert machine.observe("a", 1.0) == []
    (decision,) = machine.observe("a", 1.0)
    assert (decision.action, decision.num_scored, machine.num_forgotten) == (Draw("a", 1), 2, 1)


@pytest.mark.parametrize(("fraction", "action"), [(0.5, Draw("b", 1)), (0.51, Stop("b", "halted"))])
def test_the_halt_is_below_its_fraction_and_not_at_it(fraction: float, action: Draw | Stop) -> None:
    rule = _Scripted({"a": 1, "b": 1}, {"a": 1, "b": 2})
    machine = BatchMachine({"a": None, "b": None}, rule, halt_fraction=fraction)
    machine.start()
    machine.observe("a", 1.0)
    assert [decision.action for decision in machine.observe("b", 1.0)] == [action]  # one of two is open


def test_equal_steps_go_to_the_prompt_with_fewer_and_then_to_the_first() -> None:
    # The last piece of each prompt (three rollouts) does not fit, and every step is worth 1.
    assert allot([[0, 1, 2, 9], [0, 1, 2, 9]], 1) == [1, 0]
    assert allot([[0, 1, 2, 9], [0, 1, 2, 9]], 2) == [1, 1]


@pytest.mark.parametrize("reward", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_equal_rewards_are_not_mixed_whatever_they_are(reward: float) -> None:
    one = evidence(reward, reward)
    assert (one.lowest, one.highest) == (reward, reward)
    assert budget.build("dapo", {"n": 2, "n_max": 6}).judge(one).target == 4


def test_a_length_scales_the_cost_by_four_at_most_either_way() -> None:
    rule = OslaRule(token_aware=True, n_max=64)
    rule.observe([evidence(1, tokens=100)])
    targets = [rule.judge(evidence(-1, -1, -1, 1, prior=0.5, tokens=tokens)).target for tokens in (1, 25, 400, 9000)]
    assert targets == [30, 30, 6, 6]  # 1/sqrt(c) of 32 and 8, less 4/3
