"""What holds for every registered estimator."""

import json
import math
import random

import pytest

from tests.fakes import one_turn
from v05ray import advantages
from v05ray.advantages import ESTIMATORS, Advantages, Estimator, GroupView, advantage
from v05ray.errors import ConfigError
from v05ray.registry import Registry
from v05ray.types import Decision, Draw, Prior, Prompt, RolloutGroup, ScoredRollout, Stop


def _groups(seed: int, *, graded: bool = False) -> list[GroupView]:
    """Twelve groups of uneven sizes with everything an estimator may ask for."""
    rng = random.Random(seed)
    groups = []
    for i in range(12):
        p = rng.random()
        size = rng.choice((2, 3, 4, 7, 16))
        rewards = tuple(rng.uniform(-1, 1) if graded else (1.0 if rng.random() < p else -1.0) for _ in range(size))
        lengths = tuple(rng.randrange(1, 400) for _ in rewards)
        prior = max(-1.0, min(1.0, 2 * p - 1 + rng.gauss(0, 0.2)))
        groups.append(GroupView(f"p{i}", rewards, prior, lengths, rng.choice((-1.0, 1.0)), min(4, size)))
    return groups


@pytest.mark.parametrize("name", ESTIMATORS.names)
@pytest.mark.parametrize("graded", [False, True])
def test_uneven_groups_give_finite_values_in_shape(name: str, graded: bool) -> None:
    estimator = advantages.build(name)
    for seed in range(20):
        groups = _groups(seed, graded=graded)
        results = estimator.compute(groups)
        assert [len(r.values) for r in results] == [len(g.rewards) for g in groups]
        assert all(math.isfinite(v) for r in results for v in r.values)
        assert all(0 <= r.num_bounded <= len(r.values) for r in results)
        assert all(r.values[i] == 0 for r in results for i in r.dropped)
        estimator.observe(groups)


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_within_a_group_a_better_reward_never_gets_a_worse_advantage(name: str) -> None:
    estimator = advantages.build(name)
    for group in _groups(3):
        (result,) = estimator.compute([group])
        kept = [
            (r, v) for i, (r, v) in enumerate(zip(group.rewards, result.values, strict=True)) if i not in result.dropped
        ]
        good = [v for r, v in kept if r > 0]
        bad = [v for r, v in kept if r < 0]
        if good and bad:
            assert min(good) >= max(bad)


@pytest.mark.parametrize("name", [n for n in ESTIMATORS.names if advantages.build(n).scope == "group"])
def test_group_scope_means_the_others_do_not_matter(name: str) -> None:
    estimator = advantages.build(name)
    groups = _groups(5)
    assert estimator.compute(groups) == [estimator.compute([group])[0] for group in groups]


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_compute_changes_nothing_and_the_state_resumes_through_json(name: str) -> None:
    estimator = advantages.build(name)
    for seed in range(3):
        estimator.observe(_groups(seed))
    probe = _groups(9)
    first = estimator.compute(probe)
    assert estimator.compute(probe) == first
    resumed = advantages.build(name)
    resumed.load_state_dict(json.loads(json.dumps(estimator.state_dict())))
    assert resumed.compute(probe) == first
    with pytest.raises(ValueError, match=f"^advantage '{name}': a state has .*; is it another recipe's"):
        resumed.load_state_dict({"nonsense": 1})


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_the_order_of_arrival_does_not_matter(name: str) -> None:
    one, other = advantages.build(name), advantages.build(name)
    groups = _groups(11)
    one.observe(groups)
    other.observe(groups[::-1])
    forward, backward = one.compute(groups), other.compute(groups[::-1])[::-1]
    for left, right in zip(forward, backward, strict=True):
        assert left.values == pytest.approx(right.values, rel=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_every_unmet_need_names_prompt_need_and_fix(name: str) -> None:
    estimator = advantages.build(name)
    for need, change in (
        ("prior", {"prior": None}),
        ("greedy", {"greedy_reward": None}),
        ("lengths", {"lengths": None}),
    ):
        if need not in estimator.needs:
            continue
        given = {"prior": 0.0, "lengths": (3, 4), "greedy_reward": 1.0, **change}
        with pytest.raises(ConfigError, match=f"{name} needs {need}, got none for 'aime-17'; "):
            estimator.compute([GroupView("aime-17", (1.0, -1.0), **given)])


def test_rewards_off_the_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'p' has 10 as reward or prior; both must be in \[-1, 1\]"):
        advantages.build("rloo").compute([GroupView("p", (10, 1))])
    with pytest.raises(ValueError, match="2 rewards but 1 lengths"):
        advantages.build("rloo").compute([GroupView("p", (1, 1), lengths=(3,))])


def test_an_unknown_name_or_option_is_suggested_away() -> None:
    with pytest.raises(ConfigError, match="unknown advantage 'v5'; did you mean 'v05'"):
        advantages.build("v5")
    with pytest.raises(ConfigError, match="no option 'vmax'; did you mean 'v_max'"):
        advantages.build("v05", vmax=0.9)


def test_a_sealed_group_becomes_a_view() -> None:
    scored = tuple(
        ScoredRollout(one_turn("p", i, "", (1,) * (i + 1), (0.0,) * (i + 1), "stop", 0, "g", 0.1), 1.0, "correct")
        for i in range(3)
    )
    decisions = (
        Decision(Draw("p", 2), 0, None, 0.5, None, None, 1),
        Decision(Draw("p", 1), 2, 1.0, 0.5, 0.1, 3, 1),
    )
    group = RolloutGroup(
        Prompt("p", "", (), "", "s"), Prior("p", 0.5, 0), scored, Stop("p", "cap"), decisions, scored[0]
    )
    assert GroupView.of(group) == GroupView("p", (1.0, 1.0, 1.0), 0.5, (1, 2, 3), 1.0, 2)


def test_a_view_of_a_group_that_knows_no_more_than_its_rewards() -> None:
    scored = ScoredRollout(one_turn("p", 0, "", (1,), (0.0,)), -1.0, "wrong")
    stop = Stop("p", "cap")
    bare = RolloutGroup(Prompt("p", "", (), "", "s"), None, (scored,), stop, ())
    assert GroupView.of(bare) == GroupView("p", (-1.0,), None, (1,), None, None)
    # A first decision that draws nothing is no cold start.
    stopped = RolloutGroup(
        Prompt("p", "", (), "", "s"), None, (scored,), stop, (Decision(stop, 1, -1.0, None, None, None, 1),)
    )
    assert GroupView.of(stopped).num_cold_start is None


def test_the_decorator_names_an_estimator_and_registers_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Estimator] = Registry("advantage")
    monkeypatch.setattr("v05ray.advantages.base.ESTIMATORS", registry)

    class Nothing(Estimator):
        def compute(self, groups):
            return [Advantages((0.0,) * len(group.rewards)) for group in groups]

    assert advantage("nothing")(Nothing) is Nothing
    assert Nothing.name == "nothing"
    assert registry.names == ("nothing",)
    built = registry.build("nothing", {})
    assert isinstance(built, Nothing)
    with pytest.raises(ValueError, match=r"^advantage 'nothing' is registered twice$"):
        advantage("nothing")(Nothing)
