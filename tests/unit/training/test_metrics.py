"""Metrics of one step, worked by hand."""

from dataclasses import replace

import pytest

from tests.fakes import make_prompt, one_turn
from v05ray.tracking.naming import name_part
from v05ray.training.metrics import component_metrics, source_metrics
from v05ray.types import ComponentScore, RolloutGroup, ScoredRollout, Stop


def group(prompt_id: str, source: str, rewards: tuple[float, ...]) -> RolloutGroup:
    scored = tuple(
        ScoredRollout(one_turn(prompt_id, i, "", (1,), (0.0,), "stop", 0, "g", 0.0), reward, "partial")
        for i, reward in enumerate(rewards)
    )
    return RolloutGroup(make_prompt(prompt_id, source=source), None, scored, Stop(prompt_id, "fixed"), ())


def test_each_source_has_its_share_its_mean_of_means_and_its_rollouts():
    groups = [
        group("a", "gcd", (1.0, 1.0)),
        group("b", "gcd", (1.0, -1.0, -1.0, -1.0)),
        group("c", "two@terms", (-1.0,)),
        group("d", "gcd", (0.0, 0.0, 0.0)),
    ]
    assert source_metrics(groups) == pytest.approx(
        {
            "data/gcd/share": 0.75,
            "data/gcd/score/mean": (1.0 - 0.5 + 0.0) / 3,
            "data/gcd/rollouts_per_prompt": 3.0,
            "data/two_terms/share": 0.25,
            "data/two_terms/score/mean": -1.0,
            "data/two_terms/rollouts_per_prompt": 1.0,
        }
    )


def test_a_name_keeps_what_mlflow_takes():
    assert name_part("gsm8k v1.0/test_a-b:c") == "gsm8k v1.0/test_a-b:c"
    assert name_part("a@b+c") == "a_b_c"


def with_components(of: RolloutGroup, *scores: tuple[ComponentScore, ...]) -> RolloutGroup:
    scored = tuple(replace(one, components=components) for one, components in zip(of.scored, scores, strict=True))
    return replace(of, scored=scored)


def test_each_of_several_verifiers_has_its_mean_of_means_and_its_errors():
    right, wrong = ComponentScore("math", 1.0, "correct"), ComponentScore("math", -1.0, "wrong")
    form, failed = ComponentScore("form of it@1", 0.5, "partial"), ComponentScore("form of it@1", -1.0, "timeout")
    groups = [
        with_components(group("a", "gcd", (1.0, 1.0, 1.0)), (right, form), (wrong, failed), (failed,)),
        with_components(group("b", "gcd", (1.0,)), (right, failed)),
        group("c", "gcd", (1.0,)),
    ]
    assert component_metrics(groups) == {
        "rewards/math/mean": 0.5,  # of 0 and 1
        "rewards/math/errors": 0.0,
        "rewards/form of it_1/mean": 0.5,  # the second prompt has none
        "rewards/form of it_1/errors": 3.0,
    }
    assert component_metrics([group("c", "gcd", (1.0,))]) == {}
