import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.budget.worlds import play, random_world, stops
from v05ray import budget
from v05ray.budget import RULES, BatchMachine, Evidence, FixedRule, Judgement, OslaRule, Rule
from v05ray.budget.controller import CostController
from v05ray.budget.rules.sequential import ReinforceAdaRule
from v05ray.errors import ConfigError
from v05ray.registry import Registry

OPTIONS = {"fixed": {"n": 5}}


def build(name: str) -> Rule:
    return budget.build(name, OPTIONS.get(name, {}))


def scored(rewards: list[float], *, prior: float | None = None, cold: int = 4, tokens: int = 0) -> Evidence:
    evidence = Evidence("p", prior, cold)
    for reward in rewards:
        evidence.add(reward, tokens)
    return evidence


def said(rule: Rule, rewards: list[float], *, prior: float | None = None, tokens: int = 0) -> tuple[int, str]:
    judgement = rule.judge(scored(rewards, prior=prior, tokens=tokens))
    return judgement.target, judgement.reason


class TestEveryRule:
    @pytest.mark.parametrize("name", RULES.names)
    @pytest.mark.parametrize("multiple", [1, 4])
    def test_plays_a_batch_within_its_bounds(self, name: str, multiple: int) -> None:
        rng = random.Random(3)
        rule = build(name)
        for _ in range(3):
            priors, rewards = random_world(rng, 24, 64)
            mode = "rounds" if rule.scope == "batch" else "async"
            machine = BatchMachine(priors, rule, halt_fraction=0, dispatch_multiple=multiple, mode=mode)
            sealed = stops(play(machine, rewards, rng))
            assert all(rule.min_rollouts <= count <= rule.n_max for _, count in sealed.values())
            rule.observe(machine.evidence())

    @pytest.mark.parametrize("name", [name for name in RULES.names if build(name).scope == "prompt"])
    def test_decides_alike_in_both_modes(self, name: str) -> None:
        priors, rewards = random_world(random.Random(5), 24, 64)
        results = [
            stops(play(BatchMachine(priors, build(name), halt_fraction=0, mode=mode), rewards, random.Random(1)))
            for mode in ("async", "rounds")
        ]
        assert results[0] == results[1]

    @pytest.mark.parametrize("name", RULES.names)
    def test_resumes_through_json(self, name: str) -> None:
        rule, resumed = build(name), build(name)
        priors, rewards = random_world(random.Random(7), 12, 64)
        mode = "rounds" if rule.scope == "batch" else "async"
        machine = BatchMachine(priors, rule, mode=mode)
        play(machine, rewards)
        rule.observe(machine.evidence())
        resumed.load_state_dict(json.loads(json.dumps(rule.state_dict())))
        assert resumed.plan(priors) == rule.plan(priors)
        assert resumed.metrics() == rule.metrics()
        evidence = scored([1, -1, -1, -1], prior=0.6, tokens=90)
        assert resumed.judge(evidence) == rule.judge(evidence)
        with pytest.raises(ValueError, match=f"^budget rule '{name}': a state has .*; is it another recipe's"):
            resumed.load_state_dict({"nonsense": 1})

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("fixed", {}, "needs n"),
            ("fixed", {"n": 0}, "n must be >= 1, got 0"),
            ("osla", {"cold_start": 8, "n_max": 4}, "1 <= cold_start <= n_max, got cold_start=8, n_max=4"),
            ("osla", {"cost": 0}, "cost must be finite and > 0"),
            ("osla", {"rounding": "up"}, "'floor' or 'nearest', got 'up'"),
            ("osla", {"mean_rollouts": 3}, "between cold_start 4 and n_max 16, got 3"),
            (
                "osla",
                {"mean_rollouts": 6, "tokens_per_step": 100},
                "^budget rule 'osla': give mean_rollouts or tokens_per_step, not both$",
            ),
            ("knapsack", {"discount": 0}, "discount must be > 0, got 0"),
            ("dapo", {"n": 8, "n_max": 4}, "n <= n_max"),
            ("reinforce_ada", {"until": "bored"}, "'success' or 'balance', got 'bored'"),
            ("pilot_commit", {"low": 0.9}, "low <= high"),
            ("vip", {"n_min": 1}, "n_min must be >= 2, got 1"),
            ("knapsack", {"mean_rollouts": 99}, "n_min <= mean_rollouts <= n_max"),
            ("hora", {"pilot": 9}, "pilot <= mean_rollouts"),
            ("osla", {"cap": 3}, "has no option 'cap'"),
        ],
    )
    def test_bad_options_are_refused(self, name: str, options: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            budget.build(name, options)


class TestOsla:
    def test_rounding(self) -> None:
        # V = .5, mean -.5, k = 4: b2 = .75, K* = 16 - 1.33 = 14.67
        assert said(OslaRule(), [-1, -1, -1, 1], prior=0.5) == (14, "target_reached")
        assert said(OslaRule(rounding="nearest"), [-1, -1, -1, 1], prior=0.5) == (15, "target_reached")

    def test_a_long_prompt_is_dearer_and_a_short_one_cheaper(self) -> None:
        rule = OslaRule(token_aware=True, n_max=64)
        usual = scored([-1, -1, -1, 1], prior=0.5, tokens=100)
        assert rule.judge(usual).target == 14  # nothing is known yet
        rule.observe([usual])
        assert rule.judge(usual).target == 14
        # c times 4: 1/sqrt(c) = 8; c over 4: 32
        assert rule.judge(scored([-1, -1, -1, 1], prior=0.5, tokens=400)).target == 6
        assert rule.judge(scored([-1, -1, -1, 1], prior=0.5, tokens=4000)).target == 6
        assert rule.judge(scored([-1, -1, -1, 1], prior=0.5, tokens=25)).target == 30
        assert OslaRule(n_max=64).judge(scored([-1, -1, -1, 1], prior=0.5, tokens=4000)).target == 14

    @pytest.mark.parametrize("wanted", [5.0, 6.0, 8.0])
    def test_the_cost_is_steered_to_a_mean(self, wanted: float) -> None:
        rng = random.Random(0)
        rule = OslaRule(mean_rollouts=wanted)
        used = []
        for _ in range(60):
            priors, rewards = random_world(rng, 64, 16)
            machine = BatchMachine(priors, rule)
            play(machine, rewards)
            rule.observe(machine.evidence())
            used.append(machine.num_drawn / 64)
        assert sum(used[20:]) / 40 == pytest.approx(wanted, rel=0.05)
        assert rule.metrics() == {"v05/cost": rule.cost}

    def test_the_cost_is_steered_to_tokens_per_step(self) -> None:
        rng = random.Random(1)
        rule = OslaRule(tokens_per_step=3500)  # 10 tokens each: 350 rollouts of 64 prompts
        used = []
        for _ in range(60):
            priors, rewards = random_world(rng, 64, 16)
            machine = BatchMachine(priors, rule)
            play(machine, rewards)
            rule.observe(machine.evidence())
            used.append(10 * machine.num_scored)
        assert sum(used[20:]) / 40 == pytest.approx(3500, rel=0.05)

    def test_an_unreachable_total_does_not_wind_the_cost_up(self) -> None:
        rule = OslaRule(mean_rollouts=15)
        for _ in range(100):
            rule.observe([scored([1, 1, -1, -1], prior=0.0)])
        assert rule.cost == 1 / 64**2
        for _ in range(8):
            rule.observe([scored([1] * 16, prior=0.0)])
        assert rule.cost > 1 / 64**2
        scarce = OslaRule(tokens_per_step=1)
        for _ in range(20):
            scarce.observe([scored([1, 1, -1, -1], prior=0.0, tokens=50)])
        assert scarce.cost == 1 / 16  # no prompt is topped up any more

    def test_evidence_that_agrees_has_no_bias(self) -> None:
        assert OslaRule().judge(scored([1, 1, -1, -1], prior=0.5)) == Judgement(0, "accepted", 0.0)

    def test_a_wish_for_less_than_one_rollout_in_all_is_still_a_ratio(self) -> None:
        controller = CostController(cost=1 / 256, cold_start=4, n_max=16, mean_rollouts=4.05)
        controller.observe(num_prompts=10, num_rollouts=41, num_tokens=0)  # 1 beyond the cold start, .5 wanted
        assert controller.cost == pytest.approx(2**0.5 / 256)


class TestSequential:
    def test_dapo_draws_on_until_mixed(self) -> None:
        rule = budget.build("dapo", {"n": 2, "n_max": 5})
        assert said(rule, [1, 1]) == (4, "cap")
        assert said(rule, [1, 1, 1, 1]) == (5, "cap")
        assert said(rule, [1, 1, 1, 1, 1]) == (5, "cap")
        assert said(rule, [1, -1]) == (2, "target_reached")
        assert said(rule, [0.2, 0.3]) == (2, "target_reached")
        assert said(rule, [1]) == (2, "cap")  # one was lost: fill the instalment first

    def test_reinforce_ada_by_hand(self) -> None:
        balance = budget.build("reinforce_ada", {"n": 4, "n_max": 8})
        assert said(balance, [1, 1, -1, -1]) == (4, "target_reached")
        assert said(balance, [1, -1, -1, -1]) == (8, "cap")
        assert said(balance, [1, -1, -1, -1, -1, -1, -1, 1]) == (8, "target_reached")
        assert said(balance, [1, 1, 1, -1]) == (8, "cap")  # a failure is missing
        eight = budget.build("reinforce_ada", {"n": 8, "n_max": 16})
        assert said(eight, [1.0] * 3 + [-1.0] * 5) == (16, "cap")  # one success is missing
        success = budget.build("reinforce_ada", {"n": 4, "n_max": 8, "until": "success"})
        assert said(success, [1, -1, -1, -1]) == (4, "target_reached")
        assert said(success, [-1, -1, -1, -1]) == (8, "cap")

    @pytest.mark.parametrize(("good", "target"), [(1, 16), (2, 64), (12, 64), (13, 16)])
    def test_pilot_commit_by_hand(self, good: int, target: int) -> None:
        rule = budget.build("pilot_commit")
        assert said(rule, [1.0] * good + [-1.0] * (16 - good)) == (target, "target_reached")

    def test_reinforce_ada_built_by_hand_refuses_an_unknown_end(self) -> None:
        until: Any = "bored"
        with pytest.raises(ValueError, match=r"^until must be 'success' or 'balance', got 'bored'$"):
            ReinforceAdaRule(until=until)

    def test_pilot_commit_draws_what_its_pilot_lost(self) -> None:
        assert said(budget.build("pilot_commit"), [1.0] * 3) == (16, "target_reached")

    def test_pilot_commit_ends_at_its_cap(self) -> None:
        assert said(budget.build("pilot_commit"), [1.0, -1.0] * 32) == (64, "cap")


class TestAllotted:
    def test_vip_by_hand(self) -> None:
        # p(1-p) = .25 and .09; ten rollouts: gains of b .09/((n-1) n): .045 .015 .0075; of a .25/..: .125 .0417 .0208
        # .0125 .0083. Six extra: .125 .045 .0417 .0208 .015 .0125 -> a 6, b 4.
        rule = budget.build("vip", {"mean_rollouts": 5})
        assert rule.plan({"a": 0.0, "b": 0.8}) == {"a": 6, "b": 4}

    def test_a_certain_prompt_gets_the_least(self) -> None:
        rule = budget.build("vip", {"mean_rollouts": 5})
        assert rule.plan({"a": 0.0, "b": 1.0}) == {"a": 8, "b": 2}

    def test_v0_allocation_favours_hard_prompts(self) -> None:
        # p = .5: n .5 (1 - .5^(n-1)): 2 -> .5, 3 -> 1.125, 4 -> 1.75. p = .9: n .1 (1 - .1^(n-1)): about .1 n.
        rule = budget.build("v0_allocation", {"mean_rollouts": 3})
        assert rule.plan({"even": 0.0, "easy": 0.8}) == {"even": 4, "easy": 2}

    def test_knapsack_by_hand_and_from_its_history(self) -> None:
        rule = budget.build("knapsack", {"mean_rollouts": 4, "n_max": 6, "discount": 1.0})
        # Without history or prior both have p = 1/2 and share evenly.
        assert rule.plan({"a": None, "b": None}) == {"a": 4, "b": 4}
        # a: 9.5 of 10 good -> little to learn; b: 3.5 of 10.
        rule.observe([_named("a", [1] * 9), _named("b", [1] * 3 + [-1] * 6)])
        # gains from n to n + 1 are [p^n q + q^n p] p q^2, of b at least .03 x .14, of a at most .05 x .0024
        assert rule.plan({"a": None, "b": None}) == {"a": 2, "b": 6}
        # An unknown prompt goes by its prior: V = .9 is p = .95.
        assert rule.plan({"c": 0.9, "b": 0.9}) == {"c": 2, "b": 6}

    def test_hora_by_hand(self) -> None:
        rule = budget.build("hora", {"pilot": 2, "mean_rollouts": 4, "n_max": 6})
        # a: 2 of 2 good: a = 3, b = 1: first chance 3/4, then 1/4 * 3/5 = .15, .0667, ...
        # b: none: a = 1, b = 3: first chance 1/4, then 3/4 * 1/5 = .15, 3/4 * 4/5 * 1/6 = .1, .0714.
        # Four more: .75 .25 .15 .15 -> two each.
        good, bad = _named("a", [1, 1]), _named("b", [-1, -1])
        assert [j.target for j in rule.judge_all([good, bad])] == [4, 4]
        rich = budget.build("hora", {"pilot": 2, "mean_rollouts": 5, "n_max": 6})
        assert [j.target for j in rich.judge_all([good, bad])] == [4, 6]  # then .1 and .0714, both of b
        # At the next barrier everybody has had a share, whatever it was.
        assert [j.target for j in rich.judge_all([_named("b", [-1] * 6)])] == [6]
        assert [j.target for j in rich.judge_all([_named("a", [1] * 3), _named("b", [-1] * 6)])] == [3, 6]

    def test_hora_compares_a_second_chance_with_anothers_first(self) -> None:
        # a: 2 of 4: good 3, bad 3: 1/2, then 1/2 (1 - 4/7) = .214, then .107. b: 0 of 4: good 1, bad 5: 1/6, then .119.
        even, failed = _named("a", [1, 1, -1, -1]), _named("b", [-1] * 4)
        for mean_rollouts, targets in ((5, (6, 4)), (6, (6, 6))):
            rule = budget.build("hora", {"pilot": 4, "mean_rollouts": mean_rollouts, "n_max": 12})
            wanted = [Judgement(target, "target_reached") for target in targets]
            assert rule.judge_all([even, failed]) == wanted

    def test_hora_gives_no_prompt_more_than_its_cap(self) -> None:
        # Six for both. By their chances b would take four: .167 .119 .089 .069, against .833 .119 .030 of a.
        rule = budget.build("hora", {"pilot": 4, "mean_rollouts": 7, "n_max": 7})
        assert [j.target for j in rule.judge_all([_named("a", [1] * 4), _named("b", [-1] * 4)])] == [7, 7]

    @pytest.mark.parametrize("name", ["vip", "knapsack"])
    def test_what_one_prompt_has_no_room_for_goes_to_the_next(self, name: str) -> None:
        # Ten for four: two each and two more, of which the only uncertain one has room for one.
        rule = budget.build(name, {"mean_rollouts": 2.5, "n_max": 3})
        priors = {"even": 0.0, "b": 1.0, "c": 1.0, "d": 1.0}
        assert rule.plan(priors) == {"even": 3, "b": 3, "c": 2, "d": 2}

    def test_an_allotment_of_one_size_is_allowed_and_is_drawn_again_where_it_is_lost(self) -> None:
        rule = budget.build("vip", {"mean_rollouts": 4, "n_min": 4, "n_max": 4})
        assert rule.plan({"a": 0.0}) == {"a": 4}
        assert rule.judge(Evidence("a", 0.0, 4)) == Judgement(4, "fixed")

    def test_knapsack_forgets_the_prompt_seen_longest_ago_beyond_its_capacity(self) -> None:
        rule = budget.build("knapsack", {"mean_rollouts": 4, "n_max": 6, "capacity": 1})
        rule.observe([_named("a", [1] * 9), _named("b", [1] * 9)])
        assert rule.plan({"a": None, "b": None}) == {"a": 6, "b": 2}  # a is even again, b solved

    def test_hora_needs_the_barrier(self) -> None:
        with pytest.raises(
            ConfigError, match=r"'hora' allots over the whole batch at a barrier; set budget\.mode: rounds"
        ):
            BatchMachine({"a": None}, budget.build("hora"))

    @pytest.mark.parametrize("name", ["vip", "knapsack", "v0_allocation", "hora"])
    def test_the_total_is_met(self, name: str) -> None:
        priors, rewards = random_world(random.Random(2), 31, 64)
        machine = BatchMachine(priors, budget.build(name), halt_fraction=0, mode="rounds")
        play(machine, rewards)
        assert machine.num_drawn == 31 * 8


def _named(name: str, rewards: Sequence[float]) -> Evidence:
    evidence = Evidence(name, None, 2)
    for reward in rewards:
        evidence.add(reward)
    return evidence


def test_the_decorator_names_a_rule_and_registers_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Rule] = Registry("budget rule")
    monkeypatch.setattr("v05ray.budget.base.RULES", registry)

    class Pair(FixedRule):
        def __init__(self) -> None:
            super().__init__(2)

    assert budget.rule("pair")(Pair) is Pair
    assert (Pair.name, registry.names) == ("pair", ("pair",))
    assert isinstance(registry.build("pair", {}), Pair)
    with pytest.raises(ValueError, match=r"^budget rule 'pair' is registered twice$"):
        budget.rule("pair")(Pair)
